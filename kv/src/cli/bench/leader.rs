//! Who leads: found once for all clients, and again when it is gone.

use crate::cli::client::CallError;
use crate::cli::http::{self, Failure, Request};
use hyper::Method;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A node answers within milliseconds who leads; one that does not is not waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(250);
/// Between two rounds of asking. Short against an election.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// The leader as it is known here.
pub struct Leader {
    servers: Vec<String>,
    /// The address, if it is known. The task that holds the lock searches for it; the others wait.
    address: Mutex<Option<String>>,
}

impl Leader {
    /// Of the cluster of these servers.
    pub fn new(servers: Vec<String>) -> Self {
        Leader { servers, address: Mutex::new(None) }
    }

    /// The leader's address, looked for until `deadline` where it is not known.
    pub async fn find(&self, deadline: Instant) -> Option<String> {
        let mut address = self.address.lock().await;
        while address.is_none() && Instant::now() < deadline {
            *address = ask_all(&self.servers).await.ok().flatten();
            if address.is_none() {
                tokio::time::sleep(ASK_EVERY).await;
            }
        }
        address.clone()
    }

    /// The same for the first time: that there is none is an error, and that nothing listens is one
    /// at once.
    pub async fn find_within(&self, time: Duration) -> Result<String, CallError> {
        ask_all(&self.servers).await.map_err(CallError::NotDone)?;
        self.find(Instant::now() + time).await.ok_or_else(|| {
            CallError::NotDone(format!("no leader among {}", self.servers.join(", ")))
        })
    }

    /// The leader at this address does not answer or does not lead any more.
    pub async fn lost(&self, gone: &str) {
        let mut address = self.address.lock().await;
        if address.as_deref() == Some(gone) {
            *address = None;
        }
    }
}

/// Asks every server whether it leads, all at once, and takes the first that says yes. An error:
/// nothing listens at any of them.
async fn ask_all(servers: &[String]) -> Result<Option<String>, String> {
    let mut asked = JoinSet::new();
    for server in servers {
        let server = server.clone();
        asked.spawn(async move {
            let request = Request::new(Method::GET, "/is_leader");
            let answer = http::exchange(&server, &request, ANSWER_TIMEOUT).await;
            match answer {
                Ok(answer) => Ok((answer.json()["is_leader"] == true).then_some(server)),
                Err(Failure::Nobody(why)) => Err(why),
                Err(_) => Ok(None),
            }
        });
    }
    let mut nobody = Vec::new();
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok(Ok(Some(leader))) => return Ok(Some(leader)),
            Ok(Err(why)) => nobody.push(why),
            _ => {}
        }
    }
    if nobody.len() == servers.len() { Err(nobody.join("; ")) } else { Ok(None) }
}

/// The client addresses of all members, as one of the servers knows them, and the servers given.
pub async fn members(servers: &[String]) -> Vec<String> {
    let mut all = servers.to_vec();
    for server in servers {
        let request = Request::new(Method::GET, "/v1/cluster");
        let Ok(answer) = http::exchange(server, &request, ANSWER_TIMEOUT).await else { continue };
        let cluster = answer.json();
        let members = cluster["members"].as_array().map(Vec::as_slice).unwrap_or_default();
        for member in members {
            if let Some(address) = member["client_address"].as_str() {
                all.push(address.to_owned());
            }
        }
        break;
    }
    all.sort();
    all.dedup();
    all
}
