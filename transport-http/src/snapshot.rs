//! Sends and receives snapshots over HTTP. A transfer is two requests, whose bodies `transfer.rs`
//! defines: how much of the snapshot is at the receiver, and the snapshot from there on.

use crate::allowance::{Allowed, SHORT_ANSWER_BYTES_MAX};
use crate::body::FrameReader;
use crate::dial::Trial;
use crate::frame::HEAD_BYTES;
use crate::hello::Hello;
use crate::net::{Net, timeout};
use crate::repeats::one_line;
use crate::shared::Shared;
use crate::transfer::{
    ChunkWriter, Refused, answer_question, read_answer, receive_snapshot, write_offer,
    write_question,
};
use bytes::Bytes;
use driver::report;
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use raft::SnapshotOffer;
use std::io::Read;
use std::time::Duration;

/// The bytes of state in one chunk. What arrives of an incomplete one is lost, so a link that
/// always breaks before it has carried this much never delivers a snapshot.
const CHUNK_BYTES: usize = 64 << 10;
/// The least rate, in bytes a second. At a lower one the receiver could take the pause after a
/// chunk for silence.
const SNAPSHOT_RATE_MIN: u64 = 1 << 20;
/// A chunk that is due after a shorter time is sent at once, and a later one waits: timers are not
/// exact enough for the pause after one chunk.
const REST_LEAST: Duration = Duration::from_millis(5);
/// The most chunks that may wait for the network.
const CHUNKS_MAX: usize = 4;
/// How long the receiver may take to accept a chunk, and to respond after the last one.
const TIMEOUT: Duration = Duration::from_secs(30);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The receiver does not need the snapshot: it has the entries.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unwanted(String);

/// Sends a snapshot. Returns when it is durable at the receiver. Sets `resumed_at` to the number of
/// bytes that the receiver has already.
pub(crate) async fn send<N: Net>(
    shared: &Shared<N>,
    offer: SnapshotOffer,
    mut state: Box<dyn Read + Send>,
    resumed_at: &mut u64,
) -> Result<(), Failure> {
    let net = &shared.net;
    let address = shared
        .connected_at(offer.to)
        .or_else(|| shared.address_at(offer.to, 0))
        .ok_or("it is no member any more")?;
    let request = |path, body| {
        let request = Request::builder().method(Method::POST).uri(path);
        request.header(hyper::header::HOST, &address).body(body)
    };
    let hello = shared.hello(offer.to);

    // How much of it does the receiver have?
    let (mut body, receiver) = Channel::<Bytes, Failure>::new(1);
    let mut question = Vec::new();
    write_question(&mut question, &hello, &offer);
    body.send_data(question.into()).await.map_err(|_| "the connection closed")?;
    drop(body);
    let (mut sender, connection, mut trial) = connect(shared, &address).await?;
    let asked = sender.send_request(request("/raft/v1/snapshot/prefix", receiver)?);
    let answer = timeout(net, TIMEOUT, async { text(asked.await?).await });
    let answer = answer.await.map_err(|_| "no answer")??;
    drop(connection);
    let start = read_answer(&answer).ok_or("the answer is damaged")?;
    trial.accept();
    *resumed_at = start.bytes;

    let mut writer = ChunkWriter::default();
    while writer.prefix().bytes < start.bytes {
        let most = start.bytes - writer.prefix().bytes;
        let read = net.run(move || (read_chunk(state.as_mut(), most), state)).await;
        let (chunk, back) = read.ok_or("this node is stopping")?;
        state = back;
        let chunk = chunk?;
        if chunk.is_empty() {
            break;
        }
        writer.skip(&chunk);
    }
    if start.bytes > 0 {
        let bytes = start.bytes;
        report(|| tracing::info!(to = %offer.to, bytes, "continues the transfer of a snapshot"));
    }

    // The bytes after the prefix follow. If the receiver has other bytes, it refuses this offer
    // and removes them.
    let (mut sender, _connection, mut trial) = connect(shared, &address).await?;
    trial.accept();
    let (mut body, receiver) = Channel::<Bytes, Failure>::new(CHUNKS_MAX);
    let request = request("/raft/v1/snapshot", receiver)?;
    let mut head = Vec::new();
    write_offer(&mut head, &hello, &offer, writer.prefix());
    let rate = shared.config.snapshot_bytes_per_second.max(SNAPSHOT_RATE_MIN);
    let mut due = net.now();
    let feed = async move {
        body.send_data(head.into()).await.map_err(|_| "the receiver closed")?;
        loop {
            let read = net.run(move || (read_chunk(state.as_mut(), u64::MAX), state)).await;
            let (chunk, back) = read.ok_or("this node is stopping")?;
            state = back;
            let chunk = chunk?;
            let (last, len) = (chunk.is_empty(), chunk.len() as u64);
            let mut frame = Vec::with_capacity(chunk.len() + HEAD_BYTES + 1);
            writer.write(&mut frame, &chunk);
            // A receiver that accepts nothing for this long counts as gone, even if its connection
            // is open. The leader must learn of the failure, or it would wait forever.
            timeout(net, TIMEOUT, body.send_data(frame.into()))
                .await
                .map_err(|_| "the receiver takes nothing")?
                .map_err(|_| "the receiver closed")?;
            shared.counters.snapshot_sent(len);
            if last {
                return Ok::<(), Failure>(());
            }
            // When the next chunk is due. Time that the network took is not made up for.
            let now = net.now();
            due = due.max(now) + Duration::from_nanos(len * 1_000_000_000 / rate);
            if due - now >= REST_LEAST {
                net.sleep(due - now).await;
            }
        }
    };
    let answer = async { text(sender.send_request(request).await?).await.map(drop) };
    tokio::pin!(answer);
    tokio::select! {
        biased;
        early = &mut answer => early,
        fed = feed => match fed {
            Ok(()) => timeout(net, TIMEOUT, answer).await.unwrap_or_else(|_| Err("no answer".into())),
            Err(error) => Err(error),
        },
    }
}

type Sender = http1::SendRequest<Channel<Bytes, Failure>>;

/// Connects to a peer, for one request. Dropping the task closes the connection.
async fn connect<N: Net>(
    shared: &Shared<N>,
    address: &str,
) -> Result<(Sender, N::Task, Trial), Failure> {
    let (tcp, trial) = shared.names.dial(address).await?;
    let (tcp, _) = Allowed::new(tcp, SHORT_ANSWER_BYTES_MAX);
    let (sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
    let running = shared.net.spawn(async move {
        let _ = connection.await;
    });
    Ok((sender, running, trial))
}

/// The body of an answer, or the failure that it reports.
async fn text(answer: Response<Incoming>) -> Result<Bytes, Failure> {
    let status = answer.status();
    let text = Limited::new(answer.into_body(), 4 << 10).collect().await?.to_bytes();
    match status {
        StatusCode::OK => Ok(text),
        StatusCode::CONFLICT => Err(Unwanted(one_line(&text)).into()),
        _ => Err(Failure::from(one_line(&text))),
    }
}

/// Reads up to [`CHUNK_BYTES`] of the state, at most `bytes_max`; empty at its end.
fn read_chunk(state: &mut dyn Read, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    state.take(bytes_max.min(CHUNK_BYTES as u64)).read_to_end(&mut chunk)?;
    Ok(chunk)
}

/// Answers how much of a snapshot is here. On failure, as [`receive`].
pub(crate) async fn answer<N: Net>(
    shared: &Shared<N>,
    mut frames: FrameReader<N>,
    introduce: impl Fn(&Hello) -> bool,
) -> Result<Vec<u8>, (StatusCode, String)> {
    let own = shared.hello(shared.config.node);
    let passes = |hello: &Hello| introduce(hello) && shared.passes(hello.from);
    let answered = answer_question(&own, &shared.inbox, &mut frames, passes).await;
    answered.map_err(|refused| failure(shared, &refused))
}

/// Receives a snapshot. On failure, returns the status and a text for the sender's operator.
/// `introduce` takes a connection slot for the sender, and returns false if none is free.
pub(crate) async fn receive<N: Net>(
    shared: &Shared<N>,
    mut frames: FrameReader<N>,
    introduce: impl Fn(&Hello) -> bool,
) -> Result<(), (StatusCode, String)> {
    let own = shared.hello(shared.config.node);
    let passes = |hello: &Hello| introduce(hello) && shared.passes(hello.from);
    let arrived = |bytes| shared.counters.snapshot_received(bytes);
    let received =
        receive_snapshot(&own, &shared.inbox, &mut frames, &shared.net, passes, arrived).await;
    received.map_err(|refused| failure(shared, &refused))
}

fn failure<N: Net>(shared: &Shared<N>, refused: &Refused) -> (StatusCode, String) {
    let status = match refused {
        Refused::Peer(_) => StatusCode::FORBIDDEN,
        Refused::Damaged(_) => {
            shared.counters.damaged();
            StatusCode::BAD_REQUEST
        }
        Refused::Bad(_) => StatusCode::BAD_REQUEST,
        Refused::Unwanted(_) => StatusCode::CONFLICT,
        Refused::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        Refused::Disk(_) => StatusCode::INSUFFICIENT_STORAGE,
        Refused::Gone => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, refused.to_string())
}
