//! Sends and receives snapshots over HTTP: one request per snapshot, whose body `transfer.rs`
//! defines.

use crate::body::FrameReader;
use crate::frame::HEAD_BYTES;
use crate::hello::Hello;
use crate::net::{Net, timeout};
use crate::shared::Shared;
use crate::transfer::{ChunkWriter, Refused, receive_snapshot, write_offer};
use bytes::Bytes;
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use raft::SnapshotOffer;
use std::io::Read;
use std::time::Duration;

/// The bytes of state in one chunk.
const CHUNK_BYTES: usize = 256 << 10;
/// The most chunks that may wait for the network.
const CHUNKS_MAX: usize = 4;
/// How long the receiver may take to accept a chunk, and to respond after the last one.
const TIMEOUT: Duration = Duration::from_secs(30);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The receiver does not need the snapshot: it has the entries.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unwanted(String);

/// Sends a snapshot. Returns when it is durable at the receiver.
pub(crate) async fn send<N: Net>(
    shared: &Shared<N>,
    offer: SnapshotOffer,
    mut state: Box<dyn Read + Send>,
) -> Result<(), Failure> {
    let net = &shared.net;
    let address = shared.address(offer.to).ok_or("it is no member any more")?;
    let tcp = shared.names.dial(&address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
    // Dropped at the end of this function, which closes the connection.
    let _connection = net.spawn(async move {
        let _ = connection.await;
    });
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
            let read = net.run(move || (read_chunk(state.as_mut()), state)).await;
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
            if last {
                return Ok::<(), Failure>(());
            }
            net.sleep(Duration::from_nanos(len * 1_000_000_000 / rate)).await;
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
    tokio::select! {
        biased;
        early = &mut answer => early,
        fed = feed => match fed {
            Ok(()) => timeout(net, TIMEOUT, answer).await.unwrap_or_else(|_| Err("no answer".into())),
            Err(error) => Err(error),
        },
    }
}

/// Reads up to `CHUNK_BYTES` of the state; empty at its end.
fn read_chunk(state: &mut dyn Read) -> std::io::Result<Vec<u8>> {
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    state.take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
    Ok(chunk)
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
    let received = receive_snapshot(&own, &shared.inbox, &mut frames, &shared.net, passes).await;
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
