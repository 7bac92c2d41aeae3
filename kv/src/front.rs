//! The first stage of a client's connection: health requests are answered here.
//!
//! Health requests are answered on a separate thread, so that they never wait behind other
//! requests. Only their simple form is handled here, as probes, scrapers and the compatible client
//! send it: the whole head in one piece, without a body. At the first request of any other form,
//! the connection moves to the clients' runtime. That request has not been read from the socket.
//!
//! On a full node, the connection is one of a small overflow, and stays here. Any other request is
//! then answered 503, and the client gets time to read this before the connection ends.

use crate::api::is_short;
use crate::canned;
use crate::connection::{self, Common};
use crate::places::Place;
use axum::body::Body;
use axum::response::Response;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request};
use hyper_util::server::graceful::Watcher;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A request with a longer head moves to the clients' runtime.
const HEAD_BYTES_MAX: usize = 2 << 10;
/// The most bytes of an answer. The longest is that of `/metrics`.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How long a client may take to read its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client in the overflow may take to send its request.
const OVERFLOW_TIMEOUT: Duration = Duration::from_secs(2);
/// When the node stops, how long a client that has sent nothing yet may take to send its request.
/// If its connection were closed, it could not know what became of a request that is under way.
const FIRST_REQUEST: Duration = Duration::from_millis(100);

/// An accepted connection.
pub(crate) struct Visitor {
    /// The connection.
    pub stream: TcpStream,
    /// The place that it occupies.
    pub seat: Seat,
    /// The state that all connections share.
    pub common: Arc<Common>,
    /// The runtime that serves all other requests.
    pub clients: Handle,
    /// Becomes true when the node stops.
    pub stopping: watch::Receiver<bool>,
}

/// The place of a connection.
pub(crate) enum Seat {
    /// All requests are served.
    Full(Place),
    /// The node was full. One request is answered: a health request, or any other one with 503.
    Overflow(Place),
}

impl Seat {
    fn place(&self) -> &Place {
        match self {
            Seat::Full(place) | Seat::Overflow(place) => place,
        }
    }
}

/// Answers health requests, then hands the connection to the clients' runtime. There, `watcher`
/// delays a shutdown until the current request is answered.
pub(crate) async fn receive(mut visitor: Visitor, watcher: Watcher) {
    let _ = visitor.stream.set_nodelay(true);
    let patience = match visitor.seat {
        Seat::Full(_) => visitor.common.client_timeout,
        Seat::Overflow(_) => OVERFLOW_TIMEOUT,
    };
    let mut is_new = true;
    loop {
        let stops = async {
            let _ = visitor.stopping.wait_for(|stopping| *stopping).await;
            if is_new {
                tokio::time::sleep(FIRST_REQUEST).await;
            }
        };
        let question = tokio::select! {
            biased;
            question = next(&visitor.stream, patience) => question,
            () = visitor.seat.place().lost() => return,
            () = stops => return,
        };
        is_new = false;
        match question {
            Ok(Next::Plain(question)) => match answer(&mut visitor, question).await {
                // Other connections on this thread get their turn.
                Ok(true) => tokio::task::yield_now().await,
                Ok(false) | Err(_) => return,
            },
            Ok(Next::Other) => break,
            Ok(Next::End) | Err(_) => return,
        }
    }
    let Visitor { stream, seat, common, clients, .. } = visitor;
    let place = match seat {
        Seat::Full(place) => place,
        Seat::Overflow(place) => return refuse(stream, place, &common).await,
    };
    let Ok(stream) = stream.into_std() else { return };
    // Dropping this task drops the set, and that closes the connection.
    let mut moved = JoinSet::new();
    moved.spawn_on(
        async move {
            if let Ok(stream) = TcpStream::from_std(stream) {
                connection::serve(stream, place, common, watcher).await;
            }
        },
        &clients,
    );
    moved.join_next().await;
}

/// Answers a request 503. The connection may still lose its place to another one: then its client
/// has had the answer for a while, or does not read it.
async fn refuse(stream: TcpStream, place: Place, common: &Common) {
    let answer = canned::full(&common.node);
    tokio::select! {
        biased;
        () = connection::tell(stream, &answer) => {}
        () = place.lost() => {}
    }
}

enum Next {
    Plain(Plain),
    Other,
    End,
}

/// A health request in its simple form. `bytes` is the length of its head.
struct Plain {
    bytes: usize,
    path: String,
    headers: HeaderMap,
    is_last: bool,
}

async fn next(stream: &TcpStream, patience: Duration) -> io::Result<Next> {
    let mut head = [0; HEAD_BYTES_MAX];
    let read = timeout(patience, stream.peek(&mut head)).await??;
    Ok(match parse(&head[..read]) {
        _ if read == 0 => Next::End,
        Some(plain) => Next::Plain(plain),
        None => Next::Other,
    })
}

fn parse(bytes: &[u8]) -> Option<Plain> {
    let rest = bytes.strip_prefix(b"GET /")?;
    // Most other requests are recognised by this one byte.
    if !matches!(rest.first(), Some(b'i' | b'h' | b'r' | b'm')) {
        return None;
    }
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let mut lines = std::str::from_utf8(&bytes[..end]).ok()?.split("\r\n");
    let path = lines.next()?.strip_prefix("GET ")?.strip_suffix(" HTTP/1.1")?;
    if !is_short(path) {
        return None;
    }
    let (mut headers, mut is_last) = (HeaderMap::new(), false);
    for line in lines {
        let (name, value) = line.split_once(':')?;
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        // Other characters that count as spaces in Rust do not in HTTP.
        let value = value.trim_matches([' ', '\t']);
        match name.as_str() {
            "connection" if value.eq_ignore_ascii_case("close") => is_last = true,
            "connection" if value.eq_ignore_ascii_case("keep-alive") => {}
            "content-length" if value == "0" => {}
            "connection" | "content-length" | "transfer-encoding" | "expect" | "upgrade" => {
                return None;
            }
            _ => {}
        }
        headers.append(name, HeaderValue::from_str(value).ok()?);
    }
    // HTTP/1.1 requires exactly one `Host`. The clients' runtime answers any other request.
    if headers.get_all("host").iter().count() != 1 {
        return None;
    }
    Some(Plain { bytes: end + 4, path: path.to_owned(), headers, is_last })
}

/// Answers a health request. Returns false if the connection has to close now.
async fn answer(visitor: &mut Visitor, question: Plain) -> io::Result<bool> {
    let Plain { bytes, path, headers, is_last } = question;
    let mut head = [0; HEAD_BYTES_MAX];
    visitor.stream.read_exact(&mut head[..bytes]).await?;
    let has_turn = path != "/metrics" || visitor.common.metrics.take().await;
    let response = match visitor.common.api.get() {
        Some(_) if !has_turn => canned::too_many_metrics(&visitor.common),
        Some(api) => {
            let mut request = Request::new(Body::empty());
            *request.method_mut() = Method::GET;
            *request.uri_mut() = path.parse().map_err(io::Error::other)?;
            *request.headers_mut() = headers;
            api.answer(request, None).await
        }
        None => canned::starting(&path, &visitor.common),
    };
    let is_last = is_last
        || matches!(visitor.seat, Seat::Overflow(_))
        || visitor.seat.place().is_lost()
        || visitor.common.leaving.has_begun();
    let bytes = encode(response, is_last).await?;
    timeout(ANSWER_TIMEOUT, visitor.stream.write_all(&bytes)).await??;
    Ok(!is_last)
}

async fn encode(response: Response, is_last: bool) -> io::Result<Vec<u8>> {
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, ANSWER_BYTES_MAX).await.map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(body.len() + 256);
    let status = parts.status;
    let reason = status.canonical_reason().unwrap_or_default();
    bytes.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).as_bytes());
    for (name, value) in parts.headers.iter().filter(|(name, _)| *name != "content-length") {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    if is_last && !parts.headers.contains_key("connection") {
        bytes.extend_from_slice(b"connection: close\r\n");
    }
    bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_questions_about_health_are_answered_here() {
        let plain =
            parse(b"GET /is_leader HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET").unwrap();
        assert_eq!((plain.bytes, plain.is_last), (55, true));
        for other in [
            "GET /is_leader HTTP/1.1\r\nHost: a\r\n",
            "GET /is_leader HTTP/1.0\r\nHost: a\r\n\r\n",
            "GET /is_leader?a HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /is_leader HTTP/1.1\r\n\r\n",
            "GET /is_leader HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET /is_leader HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n",
            "GET /is_leader HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET /healthz HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET /v1/kv/a HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST /is_leader HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            assert!(parse(other.as_bytes()).is_none(), "{other}");
        }
    }
}
