//! A snapshot on its way: an offer, then its bytes in chunks with a checksum each. It counts as
//! delivered once it is durable at the receiver.
//!
//! A transfer that breaks is begun anew; it is not resumed.

use crate::frame::{FrameReader, write_frame};
use crate::hello::Hello;
use crate::transport::Shared;
use bytes::{BufMut, Bytes};
use driver::OfferError;
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use raft::Offer;
use std::io::Read;
use std::time::Duration;
use storage::codec;
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Bytes of state in one chunk.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that may wait for the network.
const CHUNKS_MAX: usize = 4;
/// How long dialling may take, the receiver with any one chunk, and its disk at the end.
const TIMEOUT: Duration = Duration::from_secs(30);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Sends a snapshot; returns when it is durable at the receiver.
pub(crate) async fn send(
    shared: &Shared,
    offer: Offer,
    mut state: Box<dyn Read + Send>,
) -> Result<(), Failure> {
    let address = shared.address(offer.to).ok_or("it is no member any more")?;
    let tcp = timeout(TIMEOUT, TcpStream::connect(&address)).await??;
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
    let connection = tokio::spawn(connection);
    let (mut body, receiver) = Channel::<Bytes, Failure>::new(CHUNKS_MAX);
    let request = Request::builder()
        .method(Method::POST)
        .uri("/raft/v1/snapshot")
        .header(hyper::header::HOST, &address)
        .body(receiver)?;
    let mut head = Vec::new();
    write_frame(&mut head, |into| into.extend(shared.hello(offer.to).encode()));
    write_frame(&mut head, |into| codec::encode(&offer, into));
    let rate = shared.config.snapshot_bytes_per_second.max(1);
    let feed = async move {
        body.send_data(head.into()).await.map_err(|_| "the receiver closed")?;
        loop {
            let (chunk, back) = spawn_blocking(move || (read_chunk(state.as_mut()), state)).await?;
            state = back;
            let chunk = chunk?;
            let (last, len) = (chunk.is_empty(), chunk.len() as u64);
            let mut frame = Vec::with_capacity(chunk.len() + 8);
            write_frame(&mut frame, |into| {
                into.put_u32_le(crc32c::crc32c(&chunk));
                into.extend(chunk);
            });
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

/// Receives a snapshot. The text of the answer is for the sender's operator.
pub(crate) async fn receive(
    shared: &Shared,
    mut frames: FrameReader,
) -> Result<(), (StatusCode, String)> {
    let bad = |text: String| (StatusCode::BAD_REQUEST, text);
    let first = match frames.first().await {
        Ok(Some(first)) => first,
        Ok(None) | Err(_) => return Err(bad("no first frame".into())),
    };
    let hello = Hello::check(&first, &shared.hello(shared.config.node))
        .map_err(|refusal| bad(refusal.to_string()))?;
    let mut next = async || match frames.next().await {
        Ok(Some(frame)) => Ok(frame),
        Ok(None) => Err(bad("the snapshot is cut off".into())),
        Err(error) => Err(bad(error.to_string())),
    };
    let offer: Offer = codec::decode(&next().await?).map_err(|error| bad(error.to_string()))?;
    if offer.from != hello.from || offer.to != shared.config.node || shared.is_cut(offer.from) {
        return Err(bad("the offer is not for this node".into()));
    }
    let mut reception = shared.inbox.offer(offer).await.map_err(|error| match error {
        OfferError::Unwanted => (StatusCode::CONFLICT, error.to_string()),
        _ => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    })?;
    let lost = |error: std::io::Error| (StatusCode::INSUFFICIENT_STORAGE, error.to_string());
    let gone = |_| (StatusCode::INTERNAL_SERVER_ERROR, "a task ended".to_owned());
    loop {
        let frame = next().await?;
        let Some((head, chunk)) = frame.split_first_chunk::<4>() else {
            return Err(bad("a chunk without a checksum".into()));
        };
        if crc32c::crc32c(chunk) != u32::from_le_bytes(*head) {
            return Err(bad("a chunk is damaged".into()));
        }
        if chunk.is_empty() {
            break;
        }
        let chunk = frame.slice(4..);
        let written = spawn_blocking(move || reception.write(&chunk).map(|()| reception));
        reception = written.await.map_err(gone)?.map_err(lost)?;
    }
    let received = spawn_blocking(move || reception.finish()).await.map_err(gone)?.map_err(lost)?;
    match shared.inbox.install(received).await {
        true => Ok(()),
        false => Err((StatusCode::SERVICE_UNAVAILABLE, "this node is stopping".to_owned())),
    }
}
