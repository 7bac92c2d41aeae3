//! The leader of the cluster: searched once for all clients, and again when it is lost.

use crate::cli::client::CallError;
use crate::cli::http::{self, Failure, Request};
use hyper::Method;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The timeout of one request. `/is_leader` is answered within milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(250);
/// The pause between two rounds of requests. Much shorter than an election.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// The known leader, shared by all clients.
pub struct Leader {
    servers: Vec<String>,
    /// The address, if it is known. The task that holds the lock searches for it; the others wait.
    address: Mutex<Option<String>>,
}

impl Leader {
    /// No leader is known yet. It is searched among these servers.
    pub fn new(servers: Vec<String>) -> Self {
        Leader { servers, address: Mutex::new(None) }
    }

    /// The leader's address. If it is not known, it is searched until `deadline`.
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

    /// Finds the first leader. It is an error if there is none within `time`, and at once if
    /// nothing listens at any server.
    pub async fn find_within(&self, time: Duration) -> Result<String, CallError> {
        ask_all(&self.servers).await.map_err(CallError::NotDone)?;
        self.find(Instant::now() + time).await.ok_or_else(|| {
            CallError::NotDone(format!("no leader among {}", self.servers.join(", ")))
        })
    }

    /// Forgets the leader at this address: it does not answer, or is not the leader any more.
    pub async fn lost(&self, gone: &str) {
        let mut address = self.address.lock().await;
        if address.as_deref() == Some(gone) {
            *address = None;
        }
    }
}

/// Queries all servers concurrently, and returns the first that is the leader. It is an error if
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

/// The given servers, and the client addresses of all members according to the first server that
/// answers.
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
