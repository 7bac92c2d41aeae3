//! The state machine of the lock service.

use quorate::{ApplyContext, LogTime, TypedMachine};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A lock that is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The client that holds it.
    pub owner: String,
    /// Its fencing token.
    pub token: u64,
    /// When it expires, in the time of the log.
    pub until_ms: u64,
}

/// A command of a client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Take a lock, or extend the time of a held one.
    Acquire {
        /// The name of the lock.
        lock: String,
        /// The client.
        owner: String,
        /// For how long, in milliseconds.
        for_ms: u64,
    },
    /// Release a lock.
    Release {
        /// The name of the lock.
        lock: String,
        /// The token of the grant.
        token: u64,
    },
}

/// All locks.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Locks {
    /// The last token that was granted.
    pub tokens: u64,
    /// The locks that are held, by name.
    pub held: BTreeMap<String, Grant>,
}

impl TypedMachine for Locks {
    type Command = Command;
    /// The grant of the lock after the command.
    type Reply = Option<Grant>;
    type Query = String;
    type Answer = Option<Grant>;

    fn apply(&mut self, at: ApplyContext, command: Command) -> Option<Grant> {
        // The time of the log is the same on all nodes.
        self.held.retain(|_, grant| grant.until_ms > at.time.0);
        match command {
            Command::Acquire { lock, owner, for_ms } => {
                let until_ms = at.time.0.saturating_add(for_ms);
                match self.held.get_mut(&lock) {
                    Some(grant) if grant.owner == owner => grant.until_ms = until_ms,
                    Some(_) => {}
                    None => {
                        self.tokens += 1;
                        let grant = Grant { owner, token: self.tokens, until_ms };
                        self.held.insert(lock.clone(), grant);
                    }
                }
                self.held.get(&lock).cloned()
            }
            Command::Release { lock, token } => {
                if self.held.get(&lock).is_some_and(|grant| grant.token == token) {
                    self.held.remove(&lock);
                }
                self.held.get(&lock).cloned()
            }
        }
    }

    fn query(&self, time: LogTime, lock: String) -> Option<Grant> {
        // An expired grant stays in the map until the next command.
        self.held.get(&lock).filter(|grant| grant.until_ms > time.0).cloned()
    }
}
