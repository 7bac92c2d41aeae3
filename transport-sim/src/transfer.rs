//! Transfers of snapshots, each over its own connection: the product's frames and receiver, with a
//! sender that has the product's timeout.

use crate::app::App;
use crate::cuts::Cut;
use crate::link::{Link, after_us};
use crate::pipe::{Piece, SILENCE, pipe};
use crate::time::{now_us, sleep_us};
use raft::SnapshotOffer;
use simulator::network::Passage;
use std::io::Read;
use tokio::sync::{mpsc, oneshot};
use transport_http::wire::{ChunkWriter, HEAD_BYTES, Offload, receive_snapshot, write_offer};

/// Sizes of chunks; each transfer draws one, in the runs in which `cuts.rs` does not decide. They
/// include small ones, since states are small here.
const CHUNK_BYTES: [usize; 3] = [200, 4_000, 256 << 10];
/// One in this many losses of a chunk breaks the connection; the others delay the chunk.
const BREAKS_ONE_IN: u64 = 4;

/// Does blocking work at once.
struct Inline;

impl Offload for Inline {
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        Some(work())
    }
}

/// Sends a snapshot. Returns whether it is durable at the receiver.
pub(crate) async fn send<A: App>(
    link: &Link<A>,
    offer: SnapshotOffer,
    mut state: Box<dyn Read + Send>,
    resumed_at: &mut u64,
) -> bool {
    let peer = offer.to;
    let passage = link.pass(peer);
    link.offers(&offer, after_us(passage));
    let Passage::Arrives { after_us, .. } = passage else {
        sleep_us(10_000).await;
        return false;
    };
    sleep_us(after_us).await;
    let Some((machine, inbox, own)) = link.reaches(peer) else {
        link.gives_up(&offer);
        sleep_us(1_000).await;
        return false;
    };
    // How much of it does the receiver have? The question and its answer take as long as the offer.
    let start = inbox.prefix(&offer.snapshot);
    let mut writer = ChunkWriter::default();
    let mut there = Vec::new();
    if state.by_ref().take(start.bytes).read_to_end(&mut there).is_err() {
        link.gives_up(&offer);
        return false;
    }
    writer.skip(&there);
    *resumed_at = start.bytes;
    if start.bytes > 0 {
        link.cluster.mark("a snapshot went on where it was cut off");
    }
    sleep_us(after_us).await;
    let (pipe, mut frames) = pipe();
    let (tell, answer) = oneshot::channel();
    let (cluster, way) = (link.cluster.clone(), (offer.from, offer.to));
    let (term, last) = (offer.term, offer.snapshot.last);
    machine.spawn(async move {
        let received = receive_snapshot(&own, &inbox, &mut frames, &Inline, |_| true, |_| ()).await;
        cluster.receives(way, (term, last), received.is_ok());
        let _ = tell.send(received.is_ok());
    });
    let mut head = Vec::new();
    write_offer(&mut head, &link.hello(peer), &offer, writer.prefix());
    let chunk_bytes = CHUNK_BYTES[link.draw(peer, CHUNK_BYTES.len() as u64) as usize];
    let cut = link.cuts();
    let feed = feed(link, peer, pipe, (head, writer), state.as_mut(), (chunk_bytes, cut));
    let patience = sleep_us(SILENCE.as_micros() as u64);
    let result = async {
        // A receiver may answer before it has read everything, if it rejects the snapshot.
        let ((), answer) = tokio::join!(biased; feed, answer);
        answer.unwrap_or(false)
    };
    let delivered = tokio::select! {
        biased;
        delivered = result => delivered,
        () = patience => false,
    };
    link.gives_up(&offer);
    // The answer is delayed too, and may get lost.
    match link.pass(peer) {
        Passage::Arrives { after_us, .. } => sleep_us(after_us).await,
        Passage::Lost { .. } if link.draw(peer, BREAKS_ONE_IN) == 0 => return false,
        Passage::Lost { .. } => sleep_us(100_000).await,
    }
    delivered
}

/// Sends the whole snapshot, unless the connection breaks.
async fn feed<A: App>(
    link: &Link<A>,
    peer: raft::NodeId,
    pipe: mpsc::Sender<Piece>,
    (head, mut writer): (Vec<u8>, ChunkWriter),
    state: &mut (dyn Read + Send),
    (chunk_bytes, mut cut): (usize, Option<Cut>),
) {
    let mut due_us = now_us() + 1;
    if pipe.send(Piece { due_us, bytes: Some(head.into()) }).await.is_err() {
        return;
    }
    loop {
        let next = cut.as_mut().map(Cut::next_chunk);
        let (chunk_bytes, is_cut) = next.unwrap_or((chunk_bytes, false));
        let mut chunk = Vec::with_capacity(chunk_bytes.min(4_096));
        if state.take(chunk_bytes as u64).read_to_end(&mut chunk).is_err() {
            return;
        }
        let mut frame = Vec::with_capacity(chunk.len() + HEAD_BYTES + 1);
        writer.write(&mut frame, &chunk);
        let frame = bytes::Bytes::from(frame);
        let broken = match link.pass(peer) {
            Passage::Arrives { after_us, .. } => {
                due_us = due_us.max(now_us() + after_us);
                is_cut
            }
            Passage::Lost { .. } => {
                due_us += 10_000;
                let cut = link.reaches(peer).is_none();
                is_cut || cut || link.draw(peer, BREAKS_ONE_IN) == 0
            }
        };
        if broken {
            let rest = link.draw(peer, frame.len() as u64) as usize;
            let _ = pipe.send(Piece { due_us, bytes: Some(frame.slice(..rest)) }).await;
            let _ = pipe.send(Piece { due_us, bytes: None }).await;
            link.cluster.mark("a snapshot was cut off on its way");
            return;
        }
        if pipe.send(Piece { due_us, bytes: Some(frame) }).await.is_err() || chunk.is_empty() {
            return;
        }
        sleep_us(1).await;
    }
}
