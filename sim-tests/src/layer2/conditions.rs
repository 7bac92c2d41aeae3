//! Conditions of writes: how they are sent, and the conclusions from an answer.

use hyper::header::{HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use serde_json::{Value, json};
use simulator::linearizability::Action;

/// The condition under which a write is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// No condition.
    Always,
    /// The key has no value.
    Absent,
    /// The key has a value.
    Exists,
    /// The key has this version.
    Is {
        /// Its version.
        version: u64,
        /// The value of that version; each version has exactly one.
        value: u64,
    },
    /// The key has no value or another version.
    IsNot(u64),
}

impl Condition {
    /// The condition as a header; `None` for no condition.
    pub fn header(self) -> Option<(HeaderName, HeaderValue)> {
        let tag = |version: u64| HeaderValue::from_str(&format!("\"{version}\"")).ok();
        let any = || HeaderValue::from_static("*");
        match self {
            Condition::Always => None,
            Condition::Absent => Some((IF_NONE_MATCH, any())),
            Condition::Exists => Some((IF_MATCH, any())),
            Condition::Is { version, .. } => Some((IF_MATCH, tag(version)?)),
            Condition::IsNot(version) => Some((IF_NONE_MATCH, tag(version)?)),
        }
    }

    /// Adds the condition to an operation of a batch.
    pub fn set(self, operation: &mut Value) {
        let (name, tag) = match self {
            Condition::Always => return,
            Condition::Absent => ("if_none_match", json!("*")),
            Condition::Exists => ("if_match", json!("*")),
            Condition::Is { version, .. } => ("if_match", json!(version)),
            Condition::IsNot(version) => ("if_none_match", json!(version)),
        };
        operation[name] = tag;
    }

    /// Whether a write must be refused if this version was found, or no value.
    pub fn refuses(self, found: Option<u64>) -> bool {
        match self {
            Condition::Always => false,
            Condition::Absent => found.is_some(),
            Condition::Exists => found.is_none(),
            Condition::Is { version, .. } => found != Some(version),
            Condition::IsNot(version) => found == Some(version),
        }
    }

    /// The effect of writing a value on this condition, if the write is or may be done.
    pub fn put(self, to: u64, is_done: bool) -> Action {
        match self {
            Condition::Always | Condition::Exists | Condition::IsNot(_) => Action::Write(to, None),
            // If it was done it has found no value, even if the client has no answer.
            Condition::Absent => Action::Write(to, Some(None)),
            Condition::Is { value: from, .. } => {
                Action::Swap { from, to, before: is_done.then_some(Some(from)) }
            }
        }
    }
}
