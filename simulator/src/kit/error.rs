//! Why a simulation did not pass.

use crate::failure::Failed;
use crate::regressions::BadLine;
use std::path::PathBuf;
use std::{fmt, io};

/// Why a simulation did not pass.
#[derive(Debug)]
#[non_exhaustive]
pub enum SimulationError {
    /// A promise was broken; [`Failed`] is the full report.
    Broken(Box<Failed>),
    /// The regressions file has a line that does not parse as a plan. Correct or remove it.
    BadLine {
        /// Path of the regressions file.
        path: PathBuf,
        /// The line, with its number and the word that does not parse.
        line: BadLine,
    },
    /// The regressions file exists but cannot be read.
    Unreadable {
        /// Path of the regressions file.
        path: PathBuf,
        /// The I/O error.
        error: io::Error,
    },
    /// An environment variable (`SIM_PLAN` or `SIM_SEED`) does not parse. Correct or unset it.
    BadVariable {
        /// Name of the variable.
        name: &'static str,
        /// The parse error, and the value of the variable.
        why: String,
    },
}

impl SimulationError {
    /// The report, if the error is [`SimulationError::Broken`].
    pub fn failed(self) -> Option<Failed> {
        match self {
            SimulationError::Broken(failed) => Some(*failed),
            _ => None,
        }
    }
}

impl fmt::Display for SimulationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SimulationError::Broken(failed) => write!(f, "{failed}"),
            SimulationError::BadLine { path, line } => write!(f, "{}: {line}", path.display()),
            SimulationError::Unreadable { path, error } => {
                write!(f, "{}: cannot be read: {error}", path.display())
            }
            SimulationError::BadVariable { name, why } => write!(f, "{name}: {why}"),
        }
    }
}

impl std::error::Error for SimulationError {}
