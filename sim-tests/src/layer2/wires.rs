//! The parts that all clients share: the keys, and requests over the simulated network.

use super::answers;
use super::store::Store;
use hyper::StatusCode;
use hyper::header::{ETAG, HOST, HeaderValue};
use kv::client::{Exchange, Failure, Request, Response};
use std::time::Duration;
use transport_sim::{CallError as Unanswered, Cluster, node_at, sleep_us};

/// The keys of the registers: the shared ones, and others whose bytes have a meaning in a path, or
/// whose escaped form is another key.
pub(super) const KEYS: &[&str] = &["r0", "r1", "r2", "a b", "a/b", "a%2Fb", "ключ?"];

/// The key of a register.
pub(super) fn key(register: u8) -> &'static str {
    KEYS[usize::from(register)]
}

/// The path of a register in the v1 API.
pub(super) fn path(register: u8) -> String {
    format!("/v1/kv/{}", escaped(key(register)))
}

/// A key as it is escaped in a path.
pub(super) fn escaped(key: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    key.bytes().map(one).collect()
}

/// The version in an answer.
pub(super) fn version(answer: &Response) -> Option<u64> {
    let tag = answer.headers.get(ETAG)?.to_str().ok()?;
    tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok()
}

/// Sends the requests of a client over the simulated network.
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
        let call = self.cluster.call(self.number, node, asked);
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
        let answer = Response { status: parts.status, headers: parts.headers, body };
        self.cluster.broken(answers::check(request, node.0, &answer).err());
        Ok(answer)
    }
}

fn mark_of(status: StatusCode) -> Option<&'static str> {
    Some(match status.as_u16() {
        307 => "a client followed a redirect",
        304 => "answer 304",
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
