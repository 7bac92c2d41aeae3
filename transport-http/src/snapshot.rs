//! Sends and receives snapshots over HTTP: a request for each, with a body as in `transfer.rs`.

use crate::body::FrameReader;
use crate::frame::HEAD_BYTES;
use crate::hello::Hello;
use crate::link::passes;
use crate::transfer::{ChunkWriter, Offload, Refused, receive_snapshot, write_offer};
use crate::transport::Shared;
use bytes::Bytes;
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use raft::Offer;
use std::io::Read;
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Bytes of state in one chunk.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that may wait for the network.
const CHUNKS_MAX: usize = 4;
/// How long the receiver may take with any one chunk, and its disk at the end.
const TIMEOUT: Duration = Duration::from_secs(30);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The receiver has no use for the snapshot: it has the entries.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unwanted(String);

/// Sends a snapshot; returns when it is durable at the receiver.
pub(crate) async fn send(
    shared: &Shared,
    offer: Offer,
    mut state: Box<dyn Read + Send>,
) -> Result<(), Failure> {
    let address = shared.address(offer.to).ok_or("it is no member any more")?;
    let tcp = shared.names.dial(&address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
    let connection = tokio::spawn(connection);
    let (mut body, receiver) = Channel::<Bytes, Failure>::new(CHUNKS_MAX);
    let request = Request::builder()
        .method(Method::POST)
        .uri("/raft/v1/snapshot")
        .header(hyper::header::HOST, &address)
        .body(receiver)?;
    let mut head = Vec::new();
    write_offer(&mut head, &shared.hello(offer.to), &offer);
    let mut writer = ChunkWriter::default();
    let rate = shared.config.snapshot_bytes_per_second.max(1);
    let feed = async move {
        body.send_data(head.into()).await.map_err(|_| "the receiver closed")?;
        loop {
            let (chunk, back) = spawn_blocking(move || (read_chunk(state.as_mut()), state)).await?;
            state = back;
            let chunk = chunk?;
            let (last, len) = (chunk.is_empty(), chunk.len() as u64);
            let mut frame = Vec::with_capacity(chunk.len() + HEAD_BYTES + 1);
            writer.write(&mut frame, &chunk);
            // A receiver that takes nothing for so long is gone, whatever its connection says: the
            // leader must hear of it, or it would wait for ever.
            timeout(TIMEOUT, body.send_data(frame.into()))
                .await
                .map_err(|_| "the receiver takes nothing")?
                .map_err(|_| "the receiver closed")?;
            if last {
                return Ok::<(), Failure>(());
            }
            tokio::time::sleep(Duration::from_nanos(len * 1_000_000_000 / rate)).await;
        }
    };
    let answer = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let text = Limited::new(answer.into_body(), 4 << 10).collect().await?.to_bytes();
        match status {
            StatusCode::OK => Ok(()),
            StatusCode::CONFLICT => {
                Err(Unwanted(String::from_utf8_lossy(&text).into_owned()).into())
            }
            _ => Err(Failure::from(String::from_utf8_lossy(&text).into_owned())),
        }
    };
    tokio::pin!(answer);
    let result = tokio::select! {
        biased;
        early = &mut answer => early,
        fed = feed => match fed {
            Ok(()) => timeout(TIMEOUT, answer).await.unwrap_or_else(|_| Err("no answer".into())),
            Err(error) => Err(error),
        },
    };
    connection.abort();
    result
}

/// Up to `CHUNK_BYTES` of the state; nothing at its end.
fn read_chunk(state: &mut dyn Read) -> std::io::Result<Vec<u8>> {
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    state.take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
    Ok(chunk)
}

/// Receives a snapshot. The text of the answer is for the sender's operator. `introduce` takes a
/// place for the sender; false: there is none.
pub(crate) async fn receive(
    shared: &Shared,
    mut frames: FrameReader,
    introduce: impl Fn(&Hello) -> bool,
) -> Result<(), (StatusCode, String)> {
    let own = shared.hello(shared.config.node);
    let passes = |hello: &Hello| introduce(hello) && passes(shared, hello.from);
    let received = receive_snapshot(&own, &shared.inbox, &mut frames, &Threads, passes).await;
    received.map_err(|refused| {
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
    })
}

/// The threads that tokio keeps for blocking work.
struct Threads;

impl Offload for Threads {
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        spawn_blocking(work).await.ok()
    }
}
