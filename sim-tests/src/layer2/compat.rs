//! The API of the older system, whose clients find the leader by themselves.

use super::clients::{Ended, User};
use super::history::FIELDS;
use super::wires::{Wires, key};
use hyper::{Method, StatusCode};
use kv::client::{Exchange, Failure, Request, Response};
use raft::NodeId;
use serde_json::{Value, json};
use simulator::checks::{Check, Violation, violation};
use simulator::linearizability::Action;
use transport_sim::{client_address, node_at, now_us};

/// A command number that no run reaches.
const NEVER: u64 = 1 << 40;
/// Stands for the empty text, which no register ever has.
const EMPTY: u64 = u64::MAX - 1;
/// Number of writes that are sent at once.
pub(super) const BURST: usize = 4;

impl User {
    async fn ask(&mut self, node: u64, path: &str, body: Value) -> Result<Response, Failure> {
        let request = Request::new(Method::POST, path).body(body.to_string());
        let wires = Wires { cluster: self.cluster.clone(), number: self.number };
        let answer = wires.exchange(&client_address(node), &request, self.patience).await;
        // A node that does not lead names the leader if it knows it. If not, the next request goes
        // to the next node.
        let leader = match &answer {
            Ok(answer) => {
                let answer = answer.json();
                let elsewhere = answer["is_leader"] == false || answer["resp_status"] == 1;
                let known = answer["leader"].as_str().and_then(node_at);
                elsewhere.then(|| known.unwrap_or(NodeId((node + 1) % self.nodes)))
            }
            Err(_) => Some(NodeId((node + 1) % self.nodes)),
        };
        if let Some(leader) = leader {
            self.leader = leader.0;
        }
        answer
    }

    /// Picks a write, as a command of the older system, and its effect on the register.
    fn command(&mut self, register: u8) -> (Value, Action) {
        let (value, last_seen) = (self.next_text(), self.store.history().last_seen(register));
        let values = self.store.values;
        let text = values.text(value);
        let key = key(register);
        match self.draw.below(8) {
            0 => {
                // No value is ever the empty text, and a missing value does not equal it either.
                let command = json!({
                    "kind": "cas", "key": key, "value": text, "compare_value": "", "id": value,
                });
                (command, Action::Swap { from: EMPTY, to: value, before: None })
            }
            1..=4 => {
                let command = json!({ "kind": "put", "key": key, "value": text, "id": value });
                (command, Action::Write(value, None))
            }
            _ => {
                let compare = values.text(last_seen);
                // A value that is not UTF-8 has another text, so the comparison fails.
                let from = if values.is_binary(last_seen) { EMPTY } else { last_seen };
                let command = json!({
                    "kind": "cas", "key": key, "value": text, "compare_value": compare, "id": value,
                });
                (command, Action::Swap { from, to: value, before: None })
            }
        }
    }

    /// A get in the log only reads, whatever its other fields are.
    pub(super) async fn submit_get(&mut self, register: u8) -> Result<(), Violation> {
        let value = self.next_text();
        let (key, text) = (key(register), self.store.values.text(value));
        let command = json!({ "kind": "get", "key": key, "value": text, "id": value });
        self.submit_command(register, command, Action::Read(None)).await
    }

    /// Empty texts, as values and as expected values. They have a key of their own: their values
    /// are not unique, so only a replay can check them.
    pub(super) async fn old_empty(&mut self) -> Result<(), Violation> {
        let kind = self.draw.pick(&["put", "cas", "cas"]);
        let (value, expected) = (self.draw.pick(&["", "x"]), self.draw.pick(&["", "", "x"]));
        let id = self.store.history().next_value();
        let mut command = json!({ "kind": kind, "key": "empty", "value": value, "id": id });
        if kind == "cas" {
            command["compare_value"] = json!(expected);
        }
        // The listing shows its effect.
        let _ = self.ask(self.leader, &format!("/{kind}"), command).await;
        Ok(())
    }

    /// Submits, and waits for the commit with another request.
    pub(super) async fn submit(&mut self, register: u8) -> Result<(), Violation> {
        let (command, action) = self.command(register);
        self.submit_command(register, command, action).await
    }

    async fn submit_command(
        &mut self,
        register: u8,
        command: Value,
        action: Action,
    ) -> Result<(), Violation> {
        let begun_us = now_us();
        let node = self.leader;
        let answer = match self.ask(node, "/submit", command.clone()).await {
            Ok(answer) => answer,
            Err(failure) => return self.failed(register, begun_us, &failure, action),
        };
        let answered = answer.json();
        let Some(index) =
            answered["log_index"].as_u64().filter(|_| answer.status == StatusCode::OK)
        else {
            self.mark(&Ended::NotDone);
            return Ok(());
        };
        if answered["is_leader"] != true || !answered["term"].is_u64() {
            return violation(FIELDS, (), format!("submitted: {answered}"));
        }
        let with_term = self.draw.below(4) > 0;
        let elsewhere = self.draw.below(4) == 0;
        let at = if elsewhere { self.draw.below(self.nodes) } else { node };
        let timeout_ms = self.patience.as_millis() as u64 / 2;
        let mut wait = json!({ "log_index": index, "timeout_ms": timeout_ms });
        if with_term {
            wait["term"] = answered["term"].clone();
        }
        let waited = self.ask(at, "/wait_commit", wait).await;
        let ended_us = now_us();
        let (ended, commit) = match &waited {
            Ok(waited) if waited.status == StatusCode::OK => {
                let commit = waited.json();
                let own = commit["command"] == command;
                let is_of_term = !with_term || commit["term"] == answered["term"];
                let (found, value) = (&commit["result"]["found"], &commit["result"]["value"]);
                if commit["index"] != index || !is_of_term || *found != value.is_string() {
                    return violation(FIELDS, (), format!("waited for {index}: {commit}"));
                }
                if with_term && !own {
                    let detail = format!("{command} at {index}: {commit}");
                    return violation(Check::WaitCommitIsOfTheCommandThatWasSubmitted, (), detail);
                }
                self.store.history().commit(index, &commit["command"])?;
                (if own { Ended::Done } else { Ended::NotDone }, commit)
            }
            Ok(waited) if waited.status == StatusCode::CONFLICT => {
                self.cluster.mark("wait_commit was superseded");
                (Ended::NotDone, Value::Null)
            }
            _ => (Ended::Unknown, Value::Null),
        };
        // If the command was superseded, the value found is that of another command and register.
        let before = match ended {
            Ended::Done => self.value_in(&commit["result"]["value"])?,
            _ => None,
        };
        self.ended(register, begun_us, ended_us, &ended, action, before);
        Ok(())
    }

    /// Waits for a command that never comes, until the timeout of the node or of the client.
    pub(super) async fn wait_in_vain(&mut self) -> Result<(), Violation> {
        let timeout_ms = self.draw.below(2 * self.patience.as_millis() as u64) + 1;
        let wait = json!({ "log_index": NEVER, "timeout_ms": timeout_ms });
        match self.ask(self.leader, "/wait_commit", wait).await {
            Ok(answer) if answer.status == StatusCode::OK => {
                violation(Check::WaitCommitIsOfTheCommandThatWasSubmitted, (), answer.explanation())
            }
            _ => Ok(()),
        }
    }

    /// A write as one request that waits for the commit.
    pub(super) async fn old_write(&mut self, register: u8) -> Result<(), Violation> {
        let (command, action) = self.command(register);
        let path = if command["kind"] == "put" { "/put" } else { "/cas" };
        let begun_us = now_us();
        let answer = match self.ask(self.leader, path, command).await {
            Ok(answer) => answer,
            Err(failure) => return self.failed(register, begun_us, &failure, action),
        };
        self.answered(register, begun_us, now_us(), &answer, action)
    }

    /// The value in a field that has one or null.
    fn value_in(&self, field: &Value) -> Result<Option<u64>, Violation> {
        field.as_str().map(|text| self.store.values.read_text(text)).transpose()
    }

    fn answered(
        &mut self,
        register: u8,
        begun_us: u64,
        ended_us: u64,
        answer: &Response,
        action: Action,
    ) -> Result<(), Violation> {
        let answered = answer.json();
        found_is_true(&answered, "prev_value")?;
        let ended = match (answered["resp_status"].as_u64(), answered["outcome"].as_str()) {
            (Some(0), _) => Ended::Done,
            (Some(1), _) => Ended::NotDone,
            (Some(2), Some("not_done")) => {
                self.cluster.mark("a proposal was superseded");
                Ended::NotDone
            }
            (Some(2), _) => Ended::Unknown,
            // The write was refused before it was proposed.
            _ => Ended::NotDone,
        };
        let before = self.value_in(&answered["prev_value"])?;
        self.ended(register, begun_us, ended_us, &ended, action, before);
        Ok(())
    }

    /// Several writes at once, each with its own connection. If the leader was partitioned, several
    /// writes are resolved at once.
    pub(super) async fn burst(&mut self) -> Result<(), Violation> {
        let begun_us = now_us();
        let (to, patience) = (client_address(self.leader), self.patience);
        let mut writes = Vec::new();
        for _ in 0..BURST {
            let register = self.register();
            let (command, action) = self.command(register);
            let path = if command["kind"] == "put" { "/put" } else { "/cas" };
            let request = Request::new(Method::POST, path).body(command.to_string());
            let wires = Wires { cluster: self.cluster.clone(), number: self.number };
            let to = to.clone();
            let answer = Box::pin(async move {
                let answer = wires.exchange(&to, &request, patience).await;
                (answer, now_us())
            });
            writes.push((register, action, answer));
        }
        let mut answers = Vec::new();
        let (registers, calls): (Vec<_>, Vec<_>) = writes
            .into_iter()
            .map(|(register, action, answer)| ((register, action), answer))
            .unzip();
        let mut calls: Vec<_> = calls.into_iter().map(Some).collect();
        // Polls all of them in order, to be deterministic.
        std::future::poll_fn(|context| {
            for (at, slot) in calls.iter_mut().enumerate() {
                if let Some(call) = slot
                    && let std::task::Poll::Ready(answer) = call.as_mut().poll(context)
                {
                    answers.push((at, answer));
                    *slot = None;
                }
            }
            match calls.iter().all(Option::is_none) {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        })
        .await;
        for (at, (answer, ended_us)) in answers {
            let (register, action) = registers[at];
            match answer {
                Ok(answer) => self.answered(register, begun_us, ended_us, &answer, action)?,
                Err(failure) => self.failed(register, begun_us, &failure, action)?,
            }
        }
        Ok(())
    }

    fn failed(
        &mut self,
        register: u8,
        begun_us: u64,
        failure: &Failure,
        action: Action,
    ) -> Result<(), Violation> {
        let ended = match failure {
            Failure::NotSent(_) | Failure::Nobody(_) => Ended::NotDone,
            Failure::Lost(_) => Ended::Unknown,
        };
        self.ended(register, begun_us, now_us(), &ended, action, None);
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "what is known of one operation")]
    fn ended(
        &mut self,
        register: u8,
        begun_us: u64,
        ended_us: u64,
        ended: &Ended,
        action: Action,
        before: Option<u64>,
    ) {
        self.mark(ended);
        let ended_us = match ended {
            Ended::Done => Some(ended_us),
            Ended::NotDone => return,
            Ended::Unknown => None,
        };
        let before = ended_us.map(|_| before);
        let action = match action {
            Action::Write(to, _) => Action::Write(to, before),
            Action::Swap { from, to, .. } => Action::Swap { from, to, before },
            Action::Read(_) => Action::Read(before.flatten()),
            other => other,
        };
        self.store.history().record(register, begun_us, ended_us, action);
    }

    pub(super) async fn old_get(&mut self, register: u8) -> Result<(), Violation> {
        let begun_us = now_us();
        let body = json!({ "key": key(register) });
        let Ok(answer) = self.ask(self.leader, "/get", body).await else { return Ok(()) };
        let answered = answer.json();
        found_is_true(&answered, "value")?;
        if answered["resp_status"] == 0 {
            let value = self.value_in(&answered["value"])?;
            let mut history = self.store.history();
            history.record(register, begun_us, Some(now_us()), Action::Read(value));
        }
        Ok(())
    }
}

/// Checks that the answer to a one-request write reports the key as found exactly if it has the
/// value.
pub(super) fn found_is_true(answered: &Value, name: &str) -> Result<(), Violation> {
    let value = answered.get(name);
    let is_whole = value.is_some_and(|value| value.is_string() || value.is_null());
    let is_answer = answered["resp_status"].is_number();
    if is_answer && !(is_whole && answered["key_found"] == answered[name].is_string()) {
        return violation(FIELDS, (), answered.to_string());
    }
    Ok(())
}
