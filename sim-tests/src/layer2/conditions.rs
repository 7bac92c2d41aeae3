//! Conditions of writes: how they are asked, and what an answer to them says of the register.

use hyper::header::{HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use serde_json::{Value, json};
use simulator::linearizability::Action;

/// What must be so for a write to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Whatever is there.
    Always,
    /// There is nothing.
    Absent,
    /// There is something.
    Exists,
    /// There is this.
    Is {
        /// Its version.
        version: u64,
        /// Its value, which every version has one of.
        value: u64,
    },
    /// There is nothing, or something else than this version.
    IsNot(u64),
}

impl Condition {
    /// As a header.
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

    /// As a field of an operation of a batch.
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

    /// Whether a write may be refused because this version was found, or none.
    pub fn refuses(self, found: Option<u64>) -> bool {
        match self {
            Condition::Always => false,
            Condition::Absent => found.is_some(),
            Condition::Exists => found.is_none(),
            Condition::Is { version, .. } => found != Some(version),
            Condition::IsNot(version) => found == Some(version),
        }
    }

    /// What writing a value on this condition does, if it is or may be done.
    pub fn put(self, to: u64, is_done: bool) -> Action {
        match self {
            Condition::Always | Condition::Exists | Condition::IsNot(_) => Action::Write(to, None),
            // If it was done it has found nothing, whether anybody heard of it or not.
            Condition::Absent => Action::Write(to, Some(None)),
            Condition::Is { value: from, .. } => {
                Action::Swap { from, to, before: is_done.then_some(Some(from)) }
            }
        }
    }
}
