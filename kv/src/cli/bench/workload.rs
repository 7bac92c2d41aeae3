//! The requests that the clients send, and their keys and values.

use super::Args;
use super::record::Record;
use crate::cli::client::CallError;
use crate::cli::http::Request;
use bytes::Bytes;
use hyper::Method;
use std::fmt::Write;
use std::ops::Range;
use std::sync::Mutex;

/// The most keys that one request writes before a benchmark that reads.
const FILL_KEYS_MAX: u32 = 100;
/// The most bytes of values in such a request. Well below the limit of a node.
const FILL_BYTES_MAX: u32 = 1 << 20;

/// The number of digits at the start of a recorded value.
const NUMBER_DIGITS: usize = 20;

/// The kind of request that is measured.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Write one key a request
    Put,
    /// Read one key a request
    Get,
    /// Write many keys a request
    Batch,
    /// Write and read in turn
    Mixed,
}

impl Operation {
    /// Whether it reads, so that the keys have to be written first.
    pub fn reads(self) -> bool {
        matches!(self, Operation::Get | Operation::Mixed)
    }
}

/// A request, and how to interpret its answer.
pub struct Task {
    pub request: Request,
    /// A batch has an outcome for each operation in its answer.
    batch: bool,
    /// For a recorded write: the key, and the number in its value.
    pub recorded: Option<(u32, u64)>,
}

impl Task {
    /// The number of operations that are done according to a successful answer.
    pub fn done(&self, answer: &[u8]) -> u64 {
        if !self.batch {
            return 1;
        }
        let answer: BatchAnswer = serde_json::from_slice(answer).unwrap_or_default();
        answer.results.iter().filter(|result| result.outcome == "done").count() as u64
    }
}

#[derive(Default, serde::Deserialize)]
struct BatchAnswer<'a> {
    #[serde(borrow)]
    results: Vec<OneResult<'a>>,
}

#[derive(serde::Deserialize)]
struct OneResult<'a> {
    outcome: &'a str,
}

/// The workload of all clients.
pub struct Workload {
    operation: Operation,
    keys: u32,
    batch_size: u32,
    value: Bytes,
    prefix: String,
    record: Option<Mutex<Record>>,
}

impl Workload {
    /// The workload that the arguments describe.
    pub fn new(args: &Args, record: Option<Record>) -> Self {
        // Recorded keys get a random prefix, so that values of an earlier run are not taken for
        // this one's.
        let prefix = match &record {
            Some(_) => format!("bench-{:08x}", rand::random::<u32>()),
            None => "bench".to_owned(),
        };
        Workload {
            operation: args.op,
            keys: args.keys,
            batch_size: args.batch_size,
            value: Bytes::from(vec![b'x'; args.value_size as usize]),
            prefix,
            record: record.map(Mutex::new),
        }
    }

    /// The next task of client `client` of `clients`; `turn` counts its tasks, `chance` is random.
    pub fn task(&self, client: u32, clients: u32, turn: u64, chance: u64) -> Task {
        if self.record.is_some() {
            return self.recorded_put(client, clients, turn, chance);
        }
        let key = (chance % u64::from(self.keys)) as u32;
        let one = |request| Task { request, batch: false, recorded: None };
        match self.operation {
            Operation::Get => one(self.get(key)),
            Operation::Mixed if turn % 2 == 1 => one(self.get(key)),
            Operation::Put | Operation::Mixed => one(self.put(key, self.value.clone())),
            Operation::Batch => {
                let first = key.min(self.keys.saturating_sub(self.batch_size));
                let last = self.keys.min(first + self.batch_size);
                Task { request: self.batch_of(first..last), batch: true, recorded: None }
            }
        }
    }

    /// A write whose value begins with a number that increases with each write of the key. A key
    /// belongs to one client, which waits for each answer. So at the end a key must have its last
    /// acknowledged number, or that of a later write whose answer was lost.
    fn recorded_put(&self, client: u32, clients: u32, turn: u64, chance: u64) -> Task {
        let own = (self.keys / clients).max(1);
        let key = client + clients * (chance % u64::from(own)) as u32;
        let mut value = format!("{turn:0NUMBER_DIGITS$}").into_bytes();
        value.resize(self.value.len().max(NUMBER_DIGITS), b'x');
        Task { request: self.put(key, value.into()), batch: false, recorded: Some((key, turn)) }
    }

    fn path(&self, key: u32) -> String {
        format!("/v1/kv/{}/{key:08}", self.prefix)
    }

    fn put(&self, key: u32, value: Bytes) -> Request {
        Request::new(Method::PUT, self.path(key)).body(value)
    }

    fn get(&self, key: u32) -> Request {
        Request::new(Method::GET, self.path(key))
    }

    /// The number of keys that one request writes before a benchmark that reads.
    pub fn fill_batch(&self) -> u32 {
        let value_bytes = (self.value.len() as u32).max(1);
        (FILL_BYTES_MAX / value_bytes).clamp(1, FILL_KEYS_MAX)
    }

    /// One request that writes a range of keys.
    pub fn batch_of(&self, keys: Range<u32>) -> Request {
        // Neither a key nor a value has a character that JSON escapes.
        let value = String::from_utf8_lossy(&self.value);
        let each_bytes = value.len() + self.prefix.len() + 64;
        let mut body = String::with_capacity(32 + keys.len() * each_bytes);
        body.push_str("{\"operations\":[");
        let first = keys.start;
        for key in keys {
            body.push_str(if key == first { "" } else { "," });
            body.push_str("{\"op\":\"put\",\"key\":\"");
            let _ = write!(body, "{}/{key:08}", self.prefix);
            body.push_str("\",\"value\":\"");
            body.push_str(&value);
            body.push_str("\"}");
        }
        body.push_str("]}");
        Request::new(Method::POST, "/v1/batch").body(body)
    }

    /// Adds an acknowledged write to the record.
    pub fn acknowledged(&self, task: &Task) {
        if let (Some(record), Some((key, number))) = (&self.record, task.recorded) {
            let mut record = record.lock().expect("nobody panics while noting a write");
            record.note(&self.path(key), number);
        }
    }

    /// Flushes the record. Returns the first error of writing it, if there was one.
    pub fn finish_record(&self) -> Result<(), CallError> {
        match &self.record {
            Some(record) => record.lock().expect("nobody panics while noting a write").finish(),
            None => Ok(()),
        }
    }
}

/// The number at the start of a recorded value.
pub fn number_in(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value.get(..NUMBER_DIGITS)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_operations_that_were_done_count() {
        let request = Request::new(Method::POST, "/v1/batch");
        let task = Task { request, batch: true, recorded: None };
        let answer = r#"{"results":[{"status":200,"outcome":"done","version":1},
            {"status":412,"outcome":"not_done","version":null},{"status":200,"outcome":"done"}]}"#;
        assert_eq!(task.done(answer.as_bytes()), 2);
        assert_eq!(task.done(b"what is this"), 0);
    }

    #[test]
    fn the_number_in_a_recorded_value_is_found_again() {
        assert_eq!(number_in(b"00000000000000000042xxxx"), Some(42));
        assert_eq!(number_in(b"short"), None);
    }
}
