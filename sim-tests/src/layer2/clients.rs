//! Clients of the store: some operations through the compatible API, some through v1, following leaders
//! as the product's own client does.

use super::app::Store;
use bytes::Bytes;
use driver::Clock;
use hyper::header::{ETAG, HOST, HeaderValue, IF_MATCH};
use hyper::{Method, StatusCode};
use kv::client::{CallError, Client, Exchange, Failure, Request, Response};
use serde_json::{Value, json};
use simulator::checks::{Violation, violation};
use simulator::linearizability::Action;
use simulator::random::{Purpose, Stream};
use std::sync::Arc;
use std::time::Duration;
use transport_sim::{
    CallError as Unanswered, Caller, Cluster, SimClock, client_address, node_at, now_us, sleep_us,
};

/// Registers that clients share: few, so that they meet.
pub(super) const REGISTERS: u64 = 3;
/// The longest that a client waits for one operation.
const PATIENCE_US_MAX: u64 = 10_000_000;
/// Registers that batches write together.
const BATCHED: u64 = 2;

/// Does what a client does, until it is over.
pub async fn run(store: Arc<Store>, cluster: Cluster<Store>, number: u64) {
    let plan = cluster.plan();
    let mut draw = Stream::new(plan.seed, Purpose::Client, number);
    // Who waits long hears from a leader that was cut off what became of the write in the end.
    let patience_us = u64::from(plan.swarm.patience_us) * draw.pick(&[1, 10, 40]);
    let patience_us = patience_us.max(plan.election_us() * draw.pick(&[0, 12]));
    let patience_us = patience_us.min(PATIENCE_US_MAX);
    let patience = Duration::from_micros(patience_us);
    let mut servers: Vec<String> = (0..plan.nodes).map(client_address).collect();
    servers.rotate_left((number % plan.nodes) as usize);
    let wires = Wires { cluster: cluster.clone(), number };
    let clock: Arc<dyn Clock> = Arc::new(SimClock::new());
    let client = Client::new(servers, patience, wires, clock);
    let (nodes, padding) = (plan.nodes, u64::from(plan.swarm.padding_bytes));
    let reads_ppm = plan.swarm.reads_ppm;
    let leader = number % nodes;
    let mut user =
        User { store, cluster, client, draw, number, nodes, padding, patience, leader, reads_ppm };
    loop {
        if let Err(broken) = user.operation().await {
            user.cluster.broken(Some(broken));
            return;
        }
        if !user.cluster.think().await {
            return;
        }
    }
}

/// When all is quiet, every node lists the same.
pub async fn last_listings(store: &Store, cluster: &Cluster<Store>) -> Result<(), Violation> {
    // One more than the clients.
    let number = u64::from(cluster.plan().swarm.clients);
    let wires = Wires { cluster: cluster.clone(), number };
    let mut first: Option<(u64, Bytes)> = None;
    let floor = store.history().done();
    for node in 0..cluster.plan().nodes {
        let request = Request::new(Method::GET, "/get_commits_since?since_index=-1");
        let patience = Duration::from_secs(5);
        let answer = wires.exchange(&client_address(node), &request, patience).await;
        // A node that is gone for good, or a stranger, lists nothing.
        let Ok(answer) = answer else { continue };
        if answer.status != StatusCode::OK {
            continue;
        }
        store.history().listing(&answer.json(), -1, floor)?;
        let (other, known) = first.get_or_insert_with(|| (node, answer.body.clone()));
        if *known != answer.body {
            let same = known.iter().zip(&answer.body).take_while(|(a, b)| a == b).count();
            let tail = |body: &Bytes| {
                let from = same.saturating_sub(40);
                String::from_utf8_lossy(&body[from..body.len().min(same + 80)]).into_owned()
            };
            let detail = format!(
                "after {same} bytes node {other} has {:?} and node {node} has {:?}",
                tail(known),
                tail(&answer.body)
            );
            return violation("every node lists the same", detail);
        }
    }
    Ok(())
}

/// Carries requests over the simulated network.
pub(super) struct Wires {
    pub cluster: Cluster<Store>,
    pub number: u64,
}

impl Exchange for Wires {
    async fn exchange(
        &self,
        address: &str,
        request: &Request,
        timeout: Duration,
    ) -> Result<Response, Failure> {
        let not_sent = |why: &str| Failure::NotSent(format!("{address}: {why}"));
        let node = node_at(address).ok_or_else(|| not_sent("no such node"))?;
        let mut asked = hyper::Request::new(request.body.clone());
        *asked.method_mut() = request.method.clone();
        *asked.uri_mut() = request.path.parse().map_err(|_| not_sent("bad path"))?;
        let host = HeaderValue::from_str(address).map_err(|_| not_sent("bad address"))?;
        asked.headers_mut().insert(HOST, host);
        for (name, value) in &request.headers {
            asked.headers_mut().insert(name.clone(), value.clone());
        }
        let call = self.cluster.call(Caller::Client(self.number), node, asked);
        let answer = tokio::select! {
            biased;
            answer = call => answer,
            () = sleep_us(timeout.as_micros() as u64) => Err(Unanswered::Lost),
        };
        let answer = answer.map_err(|error| match error {
            Unanswered::NotSent => not_sent("no connection"),
            Unanswered::Lost => Failure::Lost(format!("{address}: no answer")),
        })?;
        let (parts, body) = answer.into_parts();
        self.cluster.note(1, self.number, u64::from(parts.status.as_u16()));
        if let Some(mark) = mark_of(parts.status) {
            self.cluster.mark(mark);
        }
        Ok(Response { status: parts.status, headers: parts.headers, body })
    }
}

fn mark_of(status: StatusCode) -> Option<&'static str> {
    Some(match status.as_u16() {
        307 => "a client followed a redirect",
        404 => "answer 404",
        408 => "answer 408",
        409 => "answer 409",
        410 => "answer 410",
        412 => "answer 412",
        429 => "answer 429",
        503 => "answer 503",
        504 => "answer 504",
        _ => return None,
    })
}

pub(super) struct User {
    pub store: Arc<Store>,
    pub cluster: Cluster<Store>,
    pub client: Client<Wires>,
    pub draw: Stream,
    pub number: u64,
    pub nodes: u64,
    pub padding: u64,
    pub patience: Duration,
    /// Whom the calls of the older system are sent to.
    pub leader: u64,
    pub reads_ppm: u32,
}

/// How a write ended.
pub(super) enum Ended {
    Done,
    NotDone,
    Unknown,
}

impl User {
    async fn operation(&mut self) -> Result<(), Violation> {
        let register = self.draw.below(REGISTERS) as u8;
        if self.draw.chance(self.reads_ppm) {
            return match self.draw.below(4) {
                0 => self.listing().await,
                1 => self.old_get(register).await,
                _ => self.get(register).await,
            };
        }
        match self.draw.below(7) {
            0 | 1 => self.submit(register).await,
            6 => match self.draw.below(6) {
                0 => self.wait_in_vain().await,
                _ => self.burst().await,
            },
            2 => self.old_write(register).await,
            3 => match self.draw.below(3) {
                0 => self.remove(register).await,
                _ => self.swap(register).await,
            },
            4 => self.batch().await,
            _ => self.put(register).await,
        }
    }

    /// The text of a value, always the same: its number, and something to make it longer.
    pub fn text(&self, value: u64) -> String {
        let padding = value.wrapping_mul(7_919) % (self.padding + 1);
        format!("{value}{}", "x".repeat(padding as usize))
    }

    pub fn mark(&self, ended: &Ended) {
        self.cluster.mark(match ended {
            Ended::Done => "a command was done",
            Ended::NotDone => "a write was certainly not done",
            Ended::Unknown => "nobody knows of a write",
        });
    }

    // The v1 API, through the product's client.

    async fn get(&mut self, register: u8) -> Result<(), Violation> {
        let begun_us = now_us();
        let how = self.draw.pick(&["", "?consistency=linearizable", "?consistency=lease"]);
        let request = Request::new(Method::GET, format!("/v1/kv/r{register}{how}"));
        let Ok(answer) = self.client.call(&request).await else { return Ok(()) };
        let ended_us = Some(now_us());
        let value = match answer.status {
            StatusCode::OK => Some(number(&answer.body)),
            StatusCode::NOT_FOUND => None,
            status => return violation("a read is answered with a value", status.to_string()),
        };
        self.cluster.mark("a read was served");
        let mut history = self.store.history();
        history.record(register, begun_us, ended_us, Action::Read(value));
        if let (Some(value), Some(version)) = (value, version(&answer)) {
            history.version(version, register, value, None, now_us())?;
        }
        Ok(())
    }

    async fn put(&mut self, register: u8) -> Result<(), Violation> {
        let (value, floor) = self.value_and_floor();
        let text = self.text(value);
        let request = Request::new(Method::PUT, format!("/v1/kv/r{register}")).body(text);
        self.write(register, request, value, floor, Action::Write(value, None)).await
    }

    /// Reads, and writes if nobody else has meanwhile.
    async fn swap(&mut self, register: u8) -> Result<(), Violation> {
        let read = Request::new(Method::GET, format!("/v1/kv/r{register}?consistency=stale"));
        let Ok(answer) = self.client.call(&read).await else { return Ok(()) };
        let Some(tag) = answer.headers.get(ETAG).cloned() else { return Ok(()) };
        let from = number(&answer.body);
        let (to, floor) = self.value_and_floor();
        let text = self.text(to);
        let mut request = Request::new(Method::PUT, format!("/v1/kv/r{register}")).body(text);
        request.headers.push((IF_MATCH, tag));
        let swap = Action::Swap { from, to, before: None };
        self.write(register, request, to, floor, swap).await
    }

    /// Reads, and removes what was found if nobody else has written meanwhile.
    async fn remove(&mut self, register: u8) -> Result<(), Violation> {
        let read = Request::new(Method::GET, format!("/v1/kv/r{register}?consistency=stale"));
        let Ok(found) = self.client.call(&read).await else { return Ok(()) };
        let Some(tag) = found.headers.get(ETAG).cloned() else { return Ok(()) };
        let mut request = Request::new(Method::DELETE, format!("/v1/kv/r{register}"));
        request.headers.push((IF_MATCH, tag));
        let begun_us = now_us();
        let answer = self.client.call(&request).await;
        let (ended, ended_us) = match answer {
            Ok(answer) if answer.status == StatusCode::NO_CONTENT => (Ended::Done, Some(now_us())),
            Ok(answer) if answer.status == StatusCode::PRECONDITION_FAILED => {
                (Ended::NotDone, None)
            }
            Ok(answer) => {
                return violation("a removal is answered so or so", answer.explanation());
            }
            Err(CallError::NotDone(_)) => (Ended::NotDone, None),
            Err(CallError::Unknown(_)) => (Ended::Unknown, None),
        };
        self.mark(&ended);
        if let Ended::Done = ended {
            self.cluster.mark("a key was removed");
        }
        if !matches!(ended, Ended::NotDone) {
            let removed = Action::Remove { from: number(&found.body) };
            self.store.history().record(register, begun_us, ended_us, removed);
        }
        Ok(())
    }

    async fn write(
        &mut self,
        register: u8,
        request: Request,
        value: u64,
        floor: u64,
        action: Action,
    ) -> Result<(), Violation> {
        let begun_us = now_us();
        let answer = self.client.call(&request).await;
        let ended_us = now_us();
        let (ended, version) = match &answer {
            Ok(answer) if answer.status == StatusCode::OK => (Ended::Done, version(answer)),
            Ok(answer) if answer.status == StatusCode::PRECONDITION_FAILED => {
                (Ended::NotDone, None)
            }
            Ok(answer) => {
                return violation("a write is answered so or so", answer.status.to_string());
            }
            Err(CallError::NotDone(_)) => (Ended::NotDone, None),
            Err(CallError::Unknown(_)) => (Ended::Unknown, None),
        };
        self.mark(&ended);
        let mut history = self.store.history();
        match ended {
            Ended::Done => {
                // That it was done says what it found.
                let action = match action {
                    Action::Swap { from, to, .. } => {
                        Action::Swap { from, to, before: Some(Some(from)) }
                    }
                    action => action,
                };
                history.record(register, begun_us, Some(ended_us), action);
                if let Some(version) = version {
                    history.version(version, register, value, Some(floor), ended_us)?;
                }
            }
            Ended::NotDone => {}
            Ended::Unknown => history.record(register, begun_us, None, action),
        }
        Ok(())
    }

    async fn batch(&mut self) -> Result<(), Violation> {
        let begun_us = now_us();
        let mut writes = Vec::new();
        let mut operations = Vec::new();
        for register in 0..BATCHED as u8 {
            let value = self.store.history().next_value();
            let text = self.text(value);
            operations.push(json!({ "op": "put", "key": format!("r{register}"), "value": text }));
            writes.push((register, value));
        }
        operations.push(json!({ "op": "delete", "key": "nothing" }));
        let floor = self.store.history().floor();
        let body = json!({ "operations": operations }).to_string();
        let request = Request::new(Method::POST, "/v1/batch").body(body);
        let answer = self.client.call(&request).await;
        let ended_us = now_us();
        let (ended, results) = match answer {
            Ok(answer) if answer.status == StatusCode::OK => (Ended::Done, answer.json()),
            Ok(answer) => {
                return violation("a batch is answered so or so", answer.explanation());
            }
            Err(CallError::NotDone(_)) => (Ended::NotDone, Value::Null),
            Err(CallError::Unknown(_)) => (Ended::Unknown, Value::Null),
        };
        self.mark(&ended);
        let mut history = self.store.history();
        for (at, (register, value)) in writes.into_iter().enumerate() {
            let action = Action::Write(value, None);
            match ended {
                Ended::Done => {
                    history.record(register, begun_us, Some(ended_us), action);
                    let version = results["results"][at]["version"].as_u64().unwrap_or_default();
                    history.version(version, register, value, Some(floor), ended_us)?;
                }
                Ended::NotDone => {}
                Ended::Unknown => history.record(register, begun_us, None, action),
            }
        }
        Ok(())
    }

    fn value_and_floor(&self) -> (u64, u64) {
        let mut history = self.store.history();
        (history.next_value(), history.floor())
    }

    async fn listing(&mut self) -> Result<(), Violation> {
        let (floor, done) = {
            let history = self.store.history();
            (history.done(), history.done().map_or(-1, |done| done as i64))
        };
        // All of it seldom: it grows, and clients ask often.
        let since = match self.draw.below(16) {
            0 => -1,
            _ => (done - self.draw.below(12) as i64).max(-1),
        };
        let request = Request::new(Method::GET, format!("/get_commits_since?since_index={since}"));
        let Ok(answer) = self.client.call(&request).await else { return Ok(()) };
        if answer.status != StatusCode::OK {
            return violation("a listing is answered so or so", answer.explanation());
        }
        self.cluster.mark("a listing was read");
        self.store.history().listing(&answer.json(), since, floor)
    }
}

/// The number that a value begins with.
pub(super) fn number(value: &[u8]) -> u64 {
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

/// The version in an answer.
fn version(answer: &Response) -> Option<u64> {
    answer.headers.get(ETAG)?.to_str().ok()?.trim_matches('"').parse().ok()
}
