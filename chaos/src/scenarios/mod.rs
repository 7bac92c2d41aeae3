//! The scenarios, each with a name. What the binary must do is in the file of each.

mod processes;

use crate::round::{Attack, Step};

/// A kind of attack.
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What happens.
    pub about: &'static str,
    /// Whether it is in the short run of the ordinary tests.
    pub quick: bool,
    /// Runs one round of it.
    pub run: fn(&mut Attack<'_>) -> Step,
}

/// All of them, in the order of the table.
pub fn all() -> Vec<Scenario> {
    [processes::SCENARIOS]
        .into_iter()
        .flatten()
        .map(|(name, about, quick, run)| Scenario { name, about, quick: *quick, run: *run })
        .collect()
}

/// An entry of a file's table: name, what happens, whether it is quick, and how.
type Entry = (&'static str, &'static str, bool, fn(&mut Attack<'_>) -> Step);
