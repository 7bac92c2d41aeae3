//! A lock service in three copies: `locks 1`, `locks 2` and `locks 3`, each in a terminal of its own.
//!
//! A lock is granted for a time, and with a fencing token: a number that grows with every grant. Whoever
//! holds a lock sends its token with everything that the lock protects, and what is protected refuses a
//! token that is lower than one it has seen. So a holder that has slept for too long does no harm, though it
//! does not know that its time is over.

use quorate::{At, Consistency, TypedMachine, TypedNode};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::{error::Error, io::stdin};

/// A lock that is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The client that holds it.
    pub owner: String,
    /// Its fencing token.
    pub token: u64,
    /// The time of the log when it ends.
    pub until_ms: u64,
}

/// What a client wants done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Take a lock, or go on holding it.
    Acquire {
        /// Its name.
        lock: String,
        /// The client.
        owner: String,
        /// For how long.
        for_ms: u64,
    },
    /// Give it back.
    Release {
        /// Its name.
        lock: String,
        /// The token of the grant.
        token: u64,
    },
}

/// All locks.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Locks {
    /// The latest token.
    pub tokens: u64,
    /// The locks that are held, by name.
    pub held: BTreeMap<String, Grant>,
}

impl TypedMachine for Locks {
    type Command = Command;
    /// Who holds the lock afterwards.
    type Reply = Option<Grant>;
    type Query = String;
    type Answer = Option<Grant>;

    fn apply(&mut self, at: At, command: Command) -> Option<Grant> {
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

    fn query(&self, lock: String) -> Option<Grant> {
        self.held.get(&lock).cloned()
    }
}

#[tokio::main]
#[allow(dead_code, reason = "the tests use the state machine alone")]
async fn main() -> Result<(), Box<dyn Error>> {
    let id: u64 = std::env::args().nth(1).ok_or("which node? 1, 2 or 3")?.parse()?;
    let members = [(1, "127.0.0.1:9101"), (2, "127.0.0.1:9102"), (3, "127.0.0.1:9103")];
    let builder = TypedNode::builder(Locks::default()).id(id).members(members);
    let node = builder.data_dir(format!("locks-{id}")).bootstrap().start_typed().await?;
    println!("acquire LOCK OWNER SECONDS | release LOCK TOKEN | show LOCK");
    for line in stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let command = match words[..] {
            ["acquire", lock, owner, seconds] => Command::Acquire {
                lock: lock.to_owned(),
                owner: owner.to_owned(),
                for_ms: seconds.parse::<u64>()?.saturating_mul(1000),
            },
            ["release", lock, token] => {
                Command::Release { lock: lock.to_owned(), token: token.parse()? }
            }
            ["show", lock] => {
                let grant = node.read(&lock.to_owned(), Consistency::Linearizable).await?;
                println!("{grant:?}");
                continue;
            }
            _ => {
                println!("not understood");
                continue;
            }
        };
        println!("{:?}", node.execute(&command).await?);
    }
    Ok(())
}
