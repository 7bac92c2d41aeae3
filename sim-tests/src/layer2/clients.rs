//! Clients of the store: some operations through the compatible API, some through v1, following
//! leaders as the product's own client does.

use super::conditions::Condition;
use super::history::FIELDS;
use super::store::Store;
use super::wires::{KEYS, Wires, key, path, version};
use driver::Clock;
use hyper::{Method, StatusCode};
use kv::client::{CallError, Client, Request, Response};
use serde_json::{Value, json};
use simulator::checks::{Check, Violation, violation};
use simulator::linearizability::Action;
use simulator::random::{Purpose, Stream};
use std::sync::Arc;
use std::time::Duration;
use transport_sim::{Cluster, SimClock, client_address, now_us};

/// Number of registers that clients share: few, so that operations conflict.
pub(super) const REGISTERS: u64 = 3;
/// The longest that a client waits for one operation.
const PATIENCE_US_MAX: u64 = 10_000_000;
/// One operation in this many is on one of the other keys.
const AWKWARD_ONE_IN: u64 = 6;
/// The most keys that a batch writes. One more operation may remove a key that does not exist.
const BATCH_MAX: u64 = 4;
/// The most parts of a listing that a client reads.
const PARTS_MAX: usize = 4;
/// The largest size of a part that a client requests.
const PART_COMMITS_MAX: u64 = 6;

/// Runs a client until the end of the run.
pub async fn run(store: Arc<Store>, cluster: Cluster<Store>, number: u64) {
    let plan = cluster.plan();
    let mut draw = Stream::new(plan.seed, Purpose::Client, number);
    // A client with a long timeout learns the outcome of its write even from a leader that was
    // partitioned.
    let patience_us = u64::from(plan.swarm.patience_us) * draw.pick(&[1, 10, 40]);
    let patience_us = patience_us.max(plan.election_us() * draw.pick(&[0, 12]));
    let patience_us = patience_us.min(PATIENCE_US_MAX);
    let patience = Duration::from_micros(patience_us);
    let mut servers: Vec<String> = (0..plan.nodes).map(client_address).collect();
    servers.rotate_left((number % plan.nodes) as usize);
    let wires = Wires { cluster: cluster.clone(), number };
    let clock: Arc<dyn Clock> = Arc::new(SimClock::new());
    let client = Client::new(servers, patience, wires, clock);
    let nodes = plan.nodes;
    let mut user = User {
        store,
        cluster,
        client,
        draw,
        number,
        nodes,
        patience,
        leader: number % nodes,
        reads_ppm: plan.swarm.reads_ppm,
        slowest_clock: plan.slowest_clock(),
    };
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

pub(super) struct User {
    pub store: Arc<Store>,
    pub cluster: Cluster<Store>,
    pub client: Client<Wires>,
    pub draw: Stream,
    pub number: u64,
    pub nodes: u64,
    pub patience: Duration,
    /// The node to which the calls of the older API are sent.
    pub leader: u64,
    pub reads_ppm: u32,
    /// [`simulator::Plan::slowest_clock`].
    pub slowest_clock: u64,
}

/// How a write ended.
pub(super) enum Ended {
    Done,
    NotDone,
    Unknown,
}

impl User {
    async fn operation(&mut self) -> Result<(), Violation> {
        let register = self.register();
        if self.draw.chance(self.reads_ppm) {
            return match self.draw.below(4) {
                0 => self.listing().await,
                1 if self.draw.below(4) == 0 => self.submit_get(register).await,
                1 => self.old_get(register).await,
                _ => self.get(register).await,
            };
        }
        match self.draw.below(7) {
            0 | 1 => self.submit(register).await,
            2 if self.draw.below(8) == 0 => self.old_empty().await,
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

    /// Picks a register: mostly one of the shared ones.
    pub fn register(&mut self) -> u8 {
        let others = KEYS.len() as u64 - REGISTERS;
        match self.draw.below(AWKWARD_ONE_IN) {
            0 => (REGISTERS + self.draw.below(others)) as u8,
            _ => self.draw.below(REGISTERS) as u8,
        }
    }

    /// A value that no client has written yet, and that is UTF-8.
    pub fn next_text(&self) -> u64 {
        let values = self.store.values;
        self.store.history().next_value_that(|value| !values.is_binary(value))
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
        let (how, age_us) = match self.draw.below(5) {
            0 => (String::new(), 0),
            1 => ("?consistency=linearizable".to_owned(), 0),
            2 => ("?consistency=lease".to_owned(), 0),
            _ => {
                let age_ms: u64 = self.draw.pick(&[5, 100, 1_000]);
                // As it may pass on the node.
                let age_us = (age_ms * 1_000_000).div_ceil(self.slowest_clock);
                (format!("?consistency=stale&max_age={age_ms}ms"), age_us)
            }
        };
        // A read that may be so old is linearizable as of then.
        let begun_us = now_us().saturating_sub(age_us);
        let mut request = Request::new(Method::GET, path(register) + &how);
        // A client that has a value asks whether it is still that one.
        let known = match self.draw.below(4) {
            0 => self.store.history().last_version(register),
            _ => None,
        };
        let unless = known.and_then(|(version, _)| Condition::IsNot(version).header());
        request.headers.extend(unless);
        let Ok(answer) = self.client.call(&request).await else { return Ok(()) };
        let ended_us = Some(now_us());
        let (value, version) = match answer.status {
            StatusCode::OK => {
                let value = self.store.values.read(&answer.body)?;
                (Some(value), Some(version_in(&answer)?))
            }
            StatusCode::NOT_MODIFIED if known.is_some() => {
                (known.map(|(_, value)| value), Some(version_in(&answer)?))
            }
            StatusCode::NOT_FOUND => (None, None),
            status => return violation(Check::ReadIsAnsweredWithAValue, (), status.to_string()),
        };
        self.cluster.mark("a read was served");
        if age_us > 0 {
            self.cluster.mark("a read with a bound on its age was served");
        }
        let mut history = self.store.history();
        history.record(register, begun_us, ended_us, Action::Read(value));
        if let (Some(value), Some(version)) = (value, version) {
            history.version(version, register, value, None, now_us())?;
        }
        Ok(())
    }

    /// Sends a write. Half of the clients do so in sessions, and repeat it.
    async fn send(&self, request: &Request) -> Result<Response, CallError> {
        match self.number.is_multiple_of(2) {
            true => self.client.write(request).await,
            false => self.client.call(request).await,
        }
    }

    async fn put(&mut self, register: u8) -> Result<(), Violation> {
        let condition = self.condition(register);
        self.write(register, condition).await
    }

    /// Picks a condition: none, most of the time.
    fn condition(&mut self, register: u8) -> Condition {
        let last = self.store.history().last_version(register);
        match (self.draw.below(10), last) {
            (0, _) => Condition::Exists,
            (1 | 2, _) => Condition::Absent,
            (3, Some((version, _))) => Condition::IsNot(version),
            (4, Some((version, value))) => Condition::Is { version, value },
            _ => Condition::Always,
        }
    }

    /// Reads, and writes if no other client has written meanwhile.
    async fn swap(&mut self, register: u8) -> Result<(), Violation> {
        match self.glance(register).await {
            Some(condition) => self.write(register, condition).await,
            None => Ok(()),
        }
    }

    /// A stale read of a register. Returns the condition that the register still has what was read.
    async fn glance(&mut self, register: u8) -> Option<Condition> {
        let read = Request::new(Method::GET, path(register) + "?consistency=stale");
        let answer = self.client.call(&read).await.ok()?;
        let value = self.store.values.read(&answer.body).ok()?;
        // It may be as old as it likes, but it was there once.
        self.store.history().record(register, 0, Some(now_us()), Action::Read(Some(value)));
        Some(Condition::Is { version: version(&answer)?, value })
    }

    /// Reads, and removes the value if no other client has written meanwhile.
    async fn remove(&mut self, register: u8) -> Result<(), Violation> {
        let found = self.glance(register).await;
        let Some(condition @ Condition::Is { value: from, .. }) = found else { return Ok(()) };
        let mut request = Request::new(Method::DELETE, path(register));
        request.headers.extend(condition.header());
        let (begun_us, floor) = (now_us(), self.store.history().floor());
        let answer = self.send(&request).await;
        let now_us = now_us();
        let (ended, ended_us) = match answer {
            Ok(answer) if answer.status == StatusCode::NO_CONTENT => {
                let version = version_in(&answer)?;
                self.store.history().removal(version, register, floor, now_us)?;
                (Ended::Done, Some(now_us))
            }
            Ok(answer) if answer.status == StatusCode::PRECONDITION_FAILED => {
                let current = found_in(&answer.json(), 412)?;
                let mut history = self.store.history();
                history.refused(register, (begun_us, now_us), condition, current)?;
                (Ended::NotDone, None)
            }
            Ok(answer) => {
                return violation(Check::RemovalIsAnsweredSoOrSo, (), answer.explanation());
            }
            Err(CallError::NotDone(_)) => (Ended::NotDone, None),
            Err(CallError::Unknown(_)) => (Ended::Unknown, None),
        };
        self.mark(&ended);
        if let Ended::Done = ended {
            self.cluster.mark("a key was removed");
        }
        if !matches!(ended, Ended::NotDone) {
            let removed = Action::Remove { from };
            self.store.history().record(register, begun_us, ended_us, removed);
        }
        Ok(())
    }

    async fn write(&mut self, register: u8, condition: Condition) -> Result<(), Violation> {
        let (value, floor) = self.value_and_floor();
        let body = self.store.values.bytes(value);
        if self.store.values.is_large(value) {
            self.cluster.mark("a value of megabytes was sent");
        }
        let mut request = Request::new(Method::PUT, path(register)).body(body);
        request.headers.extend(condition.header());
        let begun_us = now_us();
        let answer = self.send(&request).await;
        let ended_us = now_us();
        let ended = match &answer {
            Ok(answer) if answer.status == StatusCode::OK => Ended::Done,
            Ok(answer) if answer.status == StatusCode::PRECONDITION_FAILED => Ended::NotDone,
            Ok(answer) => {
                return violation(Check::WriteIsAnsweredSoOrSo, (), answer.status.to_string());
            }
            Err(CallError::NotDone(_)) => Ended::NotDone,
            Err(CallError::Unknown(_)) => Ended::Unknown,
        };
        self.mark(&ended);
        let mut history = self.store.history();
        match (ended, answer) {
            (Ended::Done, answer) => {
                history.record(register, begun_us, Some(ended_us), condition.put(value, true));
                if let Ok(answer) = answer {
                    let version = version_in(&answer)?;
                    history.version(version, register, value, Some(floor), ended_us)?;
                }
            }
            (Ended::NotDone, Ok(refused)) => {
                let current = found_in(&refused.json(), 412)?;
                history.refused(register, (begun_us, ended_us), condition, current)?;
            }
            (Ended::NotDone, Err(_)) => {}
            (Ended::Unknown, _) => {
                history.record(register, begun_us, None, condition.put(value, false));
            }
        }
        Ok(())
    }

    /// Several operations at once. They are independent: each has its own condition.
    async fn batch(&mut self) -> Result<(), Violation> {
        let begun_us = now_us();
        let mut asked = Vec::new();
        let mut operations = Vec::new();
        for _ in 0..=self.draw.below(BATCH_MAX) {
            let register = self.register();
            let condition = self.condition(register);
            let key = key(register);
            let removes = self.draw.below(2) == 0;
            let (mut operation, to) = match condition {
                Condition::Is { .. } if removes => (json!({ "op": "delete", "key": key }), None),
                _ => {
                    let values = self.store.values;
                    let is_fit = |value| !values.is_binary(value) && !values.is_large(value);
                    let value = self.store.history().next_value_that(is_fit);
                    let text = values.text(value);
                    (json!({ "op": "put", "key": key, "value": text }), Some(value))
                }
            };
            condition.set(&mut operation);
            operations.push(operation);
            asked.push((register, condition, to));
        }
        operations.push(json!({ "op": "delete", "key": "nothing" }));
        let floor = self.store.history().floor();
        let body = json!({ "operations": operations }).to_string();
        let request = Request::new(Method::POST, "/v1/batch").body(body);
        let answer = self.client.call(&request).await;
        let ended_us = now_us();
        let (ended, answered) = match answer {
            Ok(answer) if answer.status == StatusCode::OK => (Ended::Done, answer.json()),
            Ok(answer) => {
                return violation(Check::BatchIsAnsweredSoOrSo, (), answer.explanation());
            }
            Err(CallError::NotDone(_)) => (Ended::NotDone, Value::Null),
            Err(CallError::Unknown(_)) => (Ended::Unknown, Value::Null),
        };
        self.mark(&ended);
        let mut history = self.store.history();
        match ended {
            Ended::Done => {
                let results = answered["results"].as_array().map_or(&[][..], Vec::as_slice);
                if results.len() != operations.len() || results[asked.len()]["status"] != 404 {
                    return violation(Check::BatchIsAnsweredSoOrSo, (), answered.to_string());
                }
                for ((register, condition, to), result) in asked.into_iter().zip(results) {
                    let version = result["version"].as_u64();
                    let (at, removes) = ((begun_us, ended_us), to.is_none());
                    let is_done = matches!(result["status"].as_u64(), Some(200 | 204));
                    if is_done != (result["outcome"] == "done") || (is_done && version.is_none()) {
                        return violation(FIELDS, (), format!("an operation of a batch: {result}"));
                    }
                    match (result["status"].as_u64(), to, version) {
                        (Some(200), Some(value), Some(version)) => {
                            let action = condition.put(value, true);
                            history.record(register, begun_us, Some(ended_us), action);
                            history.version(version, register, value, Some(floor), ended_us)?;
                        }
                        (Some(204), None, Some(version)) => {
                            let Condition::Is { value: from, .. } = condition else { continue };
                            history.removal(version, register, floor, ended_us)?;
                            let removed = Action::Remove { from };
                            history.record(register, begun_us, Some(ended_us), removed);
                            self.cluster.mark("a batch removed a key");
                        }
                        (Some(412), _, _) => {
                            let version = found_in(result, 412)?;
                            history.refused(register, at, condition, version)?;
                            self.cluster.mark("a batch was refused in part");
                        }
                        _ => {
                            let detail = format!("{result}, removes: {removes}");
                            return violation(Check::BatchIsAnsweredSoOrSo, (), detail);
                        }
                    }
                }
            }
            Ended::NotDone => {}
            Ended::Unknown => {
                for (register, condition, to) in asked {
                    let action = match (condition, to) {
                        (Condition::Is { value: from, .. }, None) => Action::Remove { from },
                        (_, Some(value)) => condition.put(value, false),
                        (_, None) => continue,
                    };
                    history.record(register, begun_us, None, action);
                }
            }
        }
        Ok(())
    }

    fn value_and_floor(&self) -> (u64, u64) {
        let mut history = self.store.history();
        (history.next_value(), history.floor())
    }

    async fn listing(&mut self) -> Result<(), Violation> {
        let (floor, done, mut replica) = {
            let history = self.store.history();
            let done = history.done();
            (done, done.map_or(-1, |done| done as i64), history.replica(self.number))
        };
        // Lists everything rarely: the listing grows, and clients request it often.
        let is_own = self.draw.below(3) == 0;
        let mut since = match self.draw.below(16) {
            _ if is_own => replica.since,
            0 => -1,
            _ => (done - self.draw.below(12) as i64).max(-1),
        };
        // In one part, or in several that must join without a gap.
        let limit = (self.draw.below(3) == 0).then(|| 1 + self.draw.below(PART_COMMITS_MAX));
        for _ in 0..PARTS_MAX {
            let path = format!("/get_commits_since?since_index={since}");
            let path = limit.map_or(path.clone(), |limit| format!("{path}&limit={limit}"));
            let Ok(answer) = self.client.call(&Request::new(Method::GET, path)).await else {
                break;
            };
            if answer.status != StatusCode::OK {
                return violation(Check::ListingIsAnsweredSoOrSo, (), answer.explanation());
            }
            self.cluster.mark("a listing was read");
            let listing = answer.json();
            let commits = listing["commits"].as_array().map_or(&[][..], Vec::as_slice);
            let is_last = limit.is_none_or(|limit| (commits.len() as u64) < limit);
            let mut history = self.store.history();
            // Only the last part must reach the floor.
            history.listing(&listing, since, floor.filter(|_| is_last))?;
            if is_own {
                replica.take(commits);
                history.keep(self.number, replica.clone());
            }
            if is_last {
                break;
            }
            since = commits.last().and_then(|last| last["index"].as_i64()).unwrap_or(since);
        }
        Ok(())
    }
}

/// The version in an answer that must have one.
fn version_in(answer: &Response) -> Result<u64, Violation> {
    match version(answer) {
        Some(version) => Ok(version),
        None => violation(FIELDS, (), format!("{} without a version", answer.status)),
    }
}

/// The version that a refused write has found; `None` if there was no value. The answer must have
/// either.
fn found_in(refused: &Value, status: u64) -> Result<Option<u64>, Violation> {
    let version = refused.get("version");
    let is_whole = version.is_some_and(|version| version.is_null() || version.is_u64());
    if !is_whole || refused["status"] != status || refused["outcome"] != "not_done" {
        return violation(FIELDS, (), format!("refused with {refused}"));
    }
    Ok(version.and_then(Value::as_u64))
}
