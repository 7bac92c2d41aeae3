//! Clients that use a cluster through every API, and record the responses.
//!
//! Each client does one operation after another, on a few keys that all clients share. Values are
//! unique numbers. A client repeats only what belongs to its session: any other operation without a
//! response has an unknown outcome.

use crate::bounds::{REQUEST_TIMEOUT, SESSION_PATIENCE};
use crate::history::{Heard, History, Record};
use crate::http::{Answer, Connection, Failed};
use crate::timeline::Timeline;
use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use simulator::linearizability::Action;
use simulator::random::{Purpose, Stream};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// The number of keys, which all clients share. There are few, so that operations conflict.
pub const KEYS: u64 = 8;

/// A put in a session, among the names of the APIs in a history.
pub const SESSION_PUT: &str = "session put";

/// The name of a key.
pub fn key_name(key: u64) -> String {
    format!("key-{key}")
}

/// The load of a round.
#[derive(Clone, Copy)]
pub struct Work {
    /// The number of clients.
    pub clients: u64,
    /// The longest pause between two operations of one client.
    pub pause_max: Duration,
    /// The bytes that follow each value, so that logs and snapshots grow.
    pub padding_bytes: usize,
    /// Whether every write is in a session, and every read is repeated, so that none of them may
    /// fail. One that fails is a violation.
    pub none_fails: bool,
}

impl Default for Work {
    fn default() -> Self {
        Work {
            clients: 6,
            pause_max: Duration::from_millis(40),
            padding_bytes: 0,
            none_fails: false,
        }
    }
}

/// All clients of a round.
pub struct Clients {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Starts the clients.
    pub fn start(
        handle: &Handle,
        addresses: &[SocketAddr],
        history: &History,
        timeline: &Timeline,
        seed: u64,
        work: Work,
    ) -> Clients {
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = (0..work.clients).map(|id| {
            let client = Client {
                nodes: addresses.iter().map(|address| Connection::new(*address)).collect(),
                node: (id % addresses.len() as u64) as usize,
                draw: Stream::new(seed, Purpose::Client, id),
                history: history.clone(),
                timeline: timeline.clone(),
                replay: Replay::default(),
                session: None,
                work,
            };
            handle.spawn(client.run(stop.clone()))
        });
        let tasks = tasks.collect();
        Clients { stop, tasks }
    }

    /// Stops the clients, after each has ended its operation.
    pub fn stop(self, handle: &Handle) {
        self.stop.store(true, Ordering::Relaxed);
        handle.block_on(async {
            for task in self.tasks {
                // A panic of a client is passed on. It would only show as missing operations.
                if let Err(error) = task.await
                    && error.is_panic()
                {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
        });
    }
}

struct Client {
    nodes: Vec<Connection>,
    node: usize,
    draw: Stream,
    history: History,
    timeline: Timeline,
    replay: Replay,
    session: Option<Session>,
    work: Work,
}

/// The session of a client.
struct Session {
    id: String,
    /// The number of the next write.
    next: u64,
}

impl Client {
    async fn run(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            let key = self.draw.below(KEYS);
            match self.draw.below(100) {
                0..40 if self.work.none_fails => self.session_put(key).await,
                40..70 if self.work.none_fails => self.session_swap(key).await,
                _ if self.work.none_fails => {
                    self.sure_get(key).await;
                }
                0..10 => self.v1_put(key).await,
                10..18 => self.session_put(key).await,
                18..24 => self.session_swap(key).await,
                24..40 => self.v1_get(key).await,
                40..48 => self.v1_swap(key, false).await,
                48..54 => self.v1_swap(key, true).await,
                54..62 => self.v1_batch().await,
                62..70 => self.put(key).await,
                70..76 => self.get(key).await,
                76..83 => self.cas(key).await,
                83..95 => self.submit(key).await,
                _ => self.listing().await,
            }
            let pause_ms = self.draw.below(self.work.pause_max.as_millis() as u64 + 1);
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
    }

    /// Any node. If none may fail, the clients seldom leave one that answers, so that most of the
    /// time is not spent on nodes that are not there.
    fn some_node(&mut self) {
        if !self.work.none_fails || self.draw.below(20) == 0 {
            self.any_node();
        }
    }

    fn any_node(&mut self) {
        self.node = self.draw.below(self.nodes.len() as u64) as usize;
    }

    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, Failed> {
        let body = body.into();
        let answer = self.nodes[self.node].ask(method, path, headers, body, REQUEST_TIMEOUT).await;
        if answer.is_err() {
            // Another node may respond.
            self.node = (self.node + 1) % self.nodes.len();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        answer
    }

    async fn post(&mut self, path: &str, body: Value) -> Result<Answer, Failed> {
        self.ask(Method::POST, path, &[], body.to_string()).await
    }

    fn text(&self, value: u64) -> String {
        match self.work.padding_bytes {
            0 => value.to_string(),
            bytes => format!("{value} {}", "x".repeat(bytes)),
        }
    }

    fn add(
        &self,
        api: &'static str,
        key: u64,
        node: usize,
        begun: u64,
        action: Action,
        heard: Heard,
    ) {
        let (node, ended) = (node as u64, self.timeline.micros());
        self.history.add(Record { key, api, node, begun, ended, action, heard });
    }

    async fn v1_put(&mut self, key: u64) {
        self.any_node();
        let (value, node, begun) = (self.history.value(), self.node, self.timeline.micros());
        let path = format!("/v1/kv/{}", key_name(key));
        let answer = self.ask(Method::PUT, &path, &[], self.text(value)).await;
        let heard = self.v1_heard("PUT", answer);
        self.add("v1 put", key, node, begun, Action::Write(value, None), heard);
    }

    async fn session_put(&mut self, key: u64) {
        self.some_node();
        let (value, node, begun) = (self.history.value(), self.node, self.timeline.micros());
        let body = self.text(value);
        let heard = self.in_session(key, None, body).await;
        self.add(SESSION_PUT, key, node, begun, Action::Write(value, None), heard);
    }

    /// Like `v1_swap`, in a session. A repeat gets the first reply, so it does not compare with
    /// what the first attempt has written.
    async fn session_swap(&mut self, key: u64) {
        self.some_node();
        let read = match self.work.none_fails {
            true => self.sure_get(key).await,
            false => self.v1_read(key).await,
        };
        let Some((Some(from), Some(version))) = read else { return };
        let (to, node, begun) = (self.history.value(), self.node, self.timeline.micros());
        let body = self.text(to);
        let heard = self.in_session(key, Some(&version), body).await;
        let before = (heard == Heard::Done).then_some(Some(from));
        self.add("session swap", key, node, begun, Action::Swap { from, to, before }, heard);
    }

    /// Writes in the session of this client. Tries again, at any node, until the reply is there.
    async fn in_session(&mut self, key: u64, if_match: Option<&str>, body: String) -> Heard {
        let Some((id, number)) = self.session_number().await else {
            self.fails("no session was opened");
            return Heard::NotDone;
        };
        let (path, number) = (format!("/v1/kv/{}", key_name(key)), number.to_string());
        let mut headers = vec![("session-id", id.as_str()), ("session-seq", number.as_str())];
        headers.extend(if_match.map(|version| ("if-match", version)));
        let begun = Instant::now();
        // Whether an attempt may have been done.
        let mut unknown = false;
        while begun.elapsed() < SESSION_PATIENCE {
            let answer = self.ask(Method::PUT, &path, &headers, body.clone()).await;
            match &answer {
                Ok(answer) if answer.status / 100 == 2 => return Heard::Done,
                // The condition did not hold at the first attempt.
                Ok(answer) if answer.status == 412 => return Heard::NotDone,
                Ok(answer) if matches!(answer.status, 409 | 410) => {
                    self.fails(&format!("a write of a session: {}", answer.text()));
                    self.session = None;
                    break;
                }
                _ => unknown |= self.v1_heard("PUT in a session", answer) == Heard::Unknown,
            }
            self.any_node();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if self.session.is_some() {
            self.fails("a write of a session: no reply");
        }
        if unknown { Heard::Unknown } else { Heard::NotDone }
    }

    /// Records an operation that has failed, in a round in which none may.
    fn fails(&self, what: &str) {
        if self.work.none_fails {
            self.history.complain(format!("an operation failed: {what}"));
        }
    }

    /// The number of a new write, in a session that is opened if there is none.
    async fn session_number(&mut self) -> Option<(String, u64)> {
        let begun = Instant::now();
        while self.session.is_none() && begun.elapsed() < SESSION_PATIENCE {
            let opened = self.ask(Method::POST, "/v1/sessions", &[], "").await;
            let opened = opened.map(|answer| answer.json()).unwrap_or_default();
            match opened["session"].as_str() {
                Some(id) => self.session = Some(Session { id: id.to_owned(), next: 1 }),
                None => {
                    self.any_node();
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        let session = self.session.as_mut()?;
        session.next += 1;
        Some((session.id.clone(), session.next - 1))
    }

    /// The outcome of a write, as its response promises it.
    fn v1_heard(&self, what: &str, answer: Result<Answer, Failed>) -> Heard {
        match answer {
            Err(Failed::NotSent) => Heard::NotDone,
            Err(Failed::Unknown) => Heard::Unknown,
            Ok(answer) if answer.status / 100 == 2 => Heard::Done,
            Ok(answer) => match answer.json()["outcome"].as_str() {
                Some("not_done") => Heard::NotDone,
                Some("unknown") => Heard::Unknown,
                _ => {
                    let (status, text) = (answer.status, answer.text());
                    self.history.complain(format!("{what}: {status} without an outcome: {text}"));
                    Heard::Unknown
                }
            },
        }
    }

    async fn v1_read(&mut self, key: u64) -> Option<(Option<u64>, Option<String>)> {
        let (node, begun) = (self.node, self.timeline.micros());
        let path = format!("/v1/kv/{}", key_name(key));
        let answer = self.ask(Method::GET, &path, &[], "").await.ok()?;
        let found = match answer.status {
            200 => Some(self.parse(&answer.body)?),
            404 => None,
            _ => return None,
        };
        self.add("v1 get", key, node, begun, Action::Read(found), Heard::Done);
        Some((found, answer.version))
    }

    /// A read that is repeated, at any node, until there is an answer.
    async fn sure_get(&mut self, key: u64) -> Option<(Option<u64>, Option<String>)> {
        let begun = Instant::now();
        self.some_node();
        while begun.elapsed() < SESSION_PATIENCE {
            let read = self.v1_read(key).await;
            if read.is_some() {
                return read;
            }
            self.any_node();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.fails("a read: no answer");
        None
    }

    fn parse(&self, bytes: &[u8]) -> Option<u64> {
        let value = parse_value(&String::from_utf8_lossy(bytes));
        if value.is_none() {
            let text: String = String::from_utf8_lossy(bytes).chars().take(80).collect();
            self.history.complain(format!("a read found a value that nobody wrote: {text:?}"));
        }
        value
    }

    async fn v1_get(&mut self, key: u64) {
        self.any_node();
        self.v1_read(key).await;
    }

    /// Reads, then writes or deletes on condition that nothing has changed.
    async fn v1_swap(&mut self, key: u64, delete: bool) {
        self.any_node();
        let Some((Some(from), Some(version))) = self.v1_read(key).await else { return };
        let (node, begun) = (self.node, self.timeline.micros());
        let path = format!("/v1/kv/{}", key_name(key));
        let condition = [("if-match", version.as_str())];
        if delete {
            let answer = self.ask(Method::DELETE, &path, &condition, "").await;
            let heard = self.v1_heard("DELETE", answer);
            self.add("v1 delete", key, node, begun, Action::Remove { from }, heard);
        } else {
            let to = self.history.value();
            let answer = self.ask(Method::PUT, &path, &condition, self.text(to)).await;
            let heard = self.v1_heard("PUT If-Match", answer);
            let before = (heard == Heard::Done).then_some(Some(from));
            self.add("v1 swap", key, node, begun, Action::Swap { from, to, before }, heard);
        }
    }

    async fn v1_batch(&mut self) {
        self.any_node();
        let (node, begun) = (self.node, self.timeline.micros());
        let first = self.draw.below(KEYS);
        let writes: Vec<(u64, u64)> =
            (0..3).map(|i| ((first + i) % KEYS, self.history.value())).collect();
        let operations: Vec<Value> = writes
            .iter()
            .map(|(key, value)| {
                json!({ "op": "put", "key": key_name(*key), "value": self.text(*value) })
            })
            .collect();
        let answer = self.post("/v1/batch", json!({ "operations": operations })).await;
        let heard = self.v1_heard("batch", answer);
        for (key, value) in writes {
            self.add("v1 batch", key, node, begun, Action::Write(value, None), heard);
        }
    }

    /// The outcome in a response of the compatible API (`/put`, `/get`, `/cas`), and the value that
    /// it contains.
    fn compat_heard(&mut self, answer: &Result<Answer, Failed>) -> (Heard, Option<u64>) {
        let answer = match answer {
            Err(Failed::NotSent) => return (Heard::NotDone, None),
            Err(Failed::Unknown) => return (Heard::Unknown, None),
            Ok(answer) => answer,
        };
        let body = answer.json();
        match (answer.status, body["resp_status"].as_u64()) {
            (200, Some(0)) => {
                let text = body["prev_value"].as_str().or(body["value"].as_str());
                (Heard::Done, text.and_then(parse_value))
            }
            (200, Some(1)) => {
                self.node = (self.node + 1) % self.nodes.len();
                (Heard::NotDone, None)
            }
            (200, Some(2)) if body["outcome"] == "not_done" => (Heard::NotDone, None),
            (429, _) => (Heard::NotDone, None),
            _ => (Heard::Unknown, None),
        }
    }

    async fn put(&mut self, key: u64) {
        let (value, node, begun) = (self.history.value(), self.node, self.timeline.micros());
        let body = json!({ "key": key_name(key), "value": self.text(value) });
        let answer = self.post("/put", body).await;
        let (heard, found) = self.compat_heard(&answer);
        let before = (heard == Heard::Done).then_some(found);
        self.add("put", key, node, begun, Action::Write(value, before), heard);
    }

    async fn get(&mut self, key: u64) {
        let (node, begun) = (self.node, self.timeline.micros());
        let answer = self.post("/get", json!({ "key": key_name(key) })).await;
        if let (Heard::Done, found) = self.compat_heard(&answer) {
            self.add("get", key, node, begun, Action::Read(found), Heard::Done);
        }
    }

    async fn cas(&mut self, key: u64) {
        let Some((Some(from), _)) = self.v1_read(key).await else { return };
        let (to, node, begun) = (self.history.value(), self.node, self.timeline.micros());
        let (old, new) = (self.text(from), self.text(to));
        let body = json!({ "key": key_name(key), "compare_value": old, "value": new });
        let answer = self.post("/cas", body).await;
        let (heard, found) = self.compat_heard(&answer);
        let before = (heard == Heard::Done).then_some(found);
        self.add("cas", key, node, begun, Action::Swap { from, to, before }, heard);
    }

    /// The two calls of the older client: submit, then wait for the commit.
    async fn submit(&mut self, key: u64) {
        let (value, node, begun) = (self.history.value(), self.node, self.timeline.micros());
        let body = json!({ "kind": "put", "key": key_name(key), "value": self.text(value) });
        let answer = self.post("/submit", body).await;
        let (heard, before) = self.submitted(answer).await;
        self.add("submit", key, node, begun, Action::Write(value, before), heard);
    }

    async fn submitted(&mut self, answer: Result<Answer, Failed>) -> (Heard, Option<Option<u64>>) {
        let answer = match answer {
            Err(Failed::NotSent) => return (Heard::NotDone, None),
            Err(Failed::Unknown) => return (Heard::Unknown, None),
            // "If it cannot append: 429 or 503, never a number."
            Ok(answer) if matches!(answer.status, 429 | 503) => return (Heard::NotDone, None),
            Ok(answer) => answer.json(),
        };
        if answer["is_leader"] == false {
            self.node = (self.node + 1) % self.nodes.len();
            return (Heard::NotDone, None);
        }
        let (Some(index), Some(term)) = (answer["log_index"].as_u64(), answer["term"].as_u64())
        else {
            return (Heard::Unknown, None);
        };
        let wait = json!({ "log_index": index, "term": term, "timeout_ms": 2500 });
        match self.post("/wait_commit", wait).await {
            Ok(answer) if answer.status == 200 => {
                let found = &answer.json()["result"]["value"];
                (Heard::Done, Some(found.as_str().and_then(parse_value)))
            }
            Ok(answer) if answer.status == 409 => (Heard::NotDone, None),
            _ => (Heard::Unknown, None),
        }
    }

    /// A listing of commits is a read of every key: its replay must give the values.
    async fn listing(&mut self) {
        self.any_node();
        let (node, begun) = (self.node, self.timeline.micros());
        let since = self.replay.last.map_or(-1, |last| last as i64);
        let path = format!("/get_commits_since?since_index={since}");
        let Ok(answer) = self.ask(Method::GET, &path, &[], "").await else { return };
        if answer.status != 200 {
            return;
        }
        let body = answer.json();
        let Some(commits) = body["commits"].as_array() else {
            return self.history.complain(format!("a listing without commits: {}", answer.text()));
        };
        if body["count"].as_u64() != Some(commits.len() as u64) {
            self.history.complain("the count of a listing is not that of its commits".to_owned());
        }
        for commit in commits {
            self.replay.take(commit);
        }
        for key in 0..KEYS {
            let found = self.replay.values.get(&key_name(key)).copied();
            self.add("listing", key, node, begun, Action::Read(found), Heard::Done);
        }
    }
}

/// The state that the replay of a listing of commits gives.
#[derive(Default)]
pub struct Replay {
    /// The value of each key that has one.
    pub values: BTreeMap<String, u64>,
    /// The index of the last commit.
    pub last: Option<u64>,
    /// How often each value was written.
    pub written: BTreeMap<u64, u32>,
}

impl Replay {
    /// Applies the next commit.
    pub fn take(&mut self, commit: &Value) {
        self.last = commit["index"].as_u64().or(self.last);
        let command = &commit["command"];
        let text = |name: &str| command[name].as_str().unwrap_or_default();
        let (key, value) = (text("key"), parse_value(text("value")));
        let takes_effect = match text("kind") {
            "put" => true,
            "cas" => {
                let expected = parse_value(text("compare_value"));
                expected.is_some() && self.values.get(key).copied() == expected
            }
            _ => false,
        };
        match value {
            // Other keys are load, not history.
            Some(value) if takes_effect && key.starts_with("key-") => {
                *self.written.entry(value).or_default() += 1;
                self.values.insert(key.to_owned(), value);
            }
            // A listing shows a delete as a put of the empty string.
            None if takes_effect => {
                self.values.remove(key);
            }
            _ => {}
        }
    }
}

/// The number that a value begins with.
pub fn parse_value(text: &str) -> Option<u64> {
    text.split(' ').next()?.parse().ok()
}
