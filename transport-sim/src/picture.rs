//! Records messages, snapshots and requests in the timeline where they leave and arrive, if the run
//! is recorded. Events inside nodes are recorded where the node is checked.
//!
//! The run does not depend on it: nothing here draws or waits.

use crate::app::App;
use crate::call::CallError;
use crate::cluster::Cluster;
use crate::link::Link;
use crate::pipe::PipeReader;
use bytes::Bytes;
use raft::{LogId, Message, NodeId, SnapshotOffer, Term};
use simulator::network::Passage;
use simulator::timeline::Ended;
use transport_http::wire::{FrameError, Frames};

/// The frames of a stream. The arrival of each is recorded.
pub(crate) struct Heard<A: App> {
    frames: PipeReader,
    cluster: Cluster<A>,
}

impl<A: App> Heard<A> {
    pub fn new(frames: PipeReader, cluster: Cluster<A>) -> Self {
        Heard { frames, cluster }
    }
}

impl<A: App> Frames for Heard<A> {
    async fn first(&mut self) -> Result<Option<Bytes>, FrameError> {
        self.frames.first().await
    }

    async fn next_within(&mut self, bytes_max: usize) -> Result<Option<Bytes>, FrameError> {
        let frame = self.frames.next_within(bytes_max).await?;
        if let (Some(frame), Some(timeline)) = (&frame, self.cluster.world().shown())
            && let Ok(message) = storage::codec::decode(frame)
        {
            timeline.arrived(&message, true);
        }
        Ok(frame)
    }
}

impl<A: App> Link<A> {
    /// Records that a message leaves. It arrives after `after_us`, or is lost.
    pub fn leaves(&self, message: &Message, after_us: Option<u64>) {
        let mut world = self.cluster.world();
        if world.shown().is_some() {
            let is_cut = world.network.is_cut(message.from.0, message.to.0);
            world.timeline.sent(message, passage(after_us), is_cut);
        }
    }

    /// Records that the connection to a peer is lost, with all messages in flight.
    pub fn is_lost(&self, peer: NodeId) {
        if let Some(timeline) = self.cluster.world().shown() {
            timeline.connection_lost(self.node, peer.0);
        }
    }

    /// Records that a snapshot leaves.
    pub fn offers(&self, offer: &SnapshotOffer, after_us: Option<u64>) {
        let mut world = self.cluster.world();
        if world.shown().is_some() {
            let is_cut = world.network.is_cut(offer.from.0, offer.to.0);
            world.timeline.snapshot_sent(offer, passage(after_us), is_cut);
        }
    }

    /// Records that the sender has given up a snapshot.
    pub fn gives_up(&self, offer: &SnapshotOffer) {
        if let Some(timeline) = self.cluster.world().shown() {
            timeline.snapshot_lost(offer);
        }
    }
}

/// The passage of a message. Copies are recorded when they arrive.
fn passage(after_us: Option<u64>) -> Passage {
    match after_us {
        Some(after_us) => Passage::Arrives { after_us, again_after_us: None },
        None => Passage::Lost { reported: false },
    }
}

impl<A: App> Cluster<A> {
    /// Records that a copy of a message arrives.
    pub(crate) fn arrives_again(&self, message: &Message, sent_us: u64) {
        if let Some(timeline) = self.world().shown() {
            timeline.arrived_again(message, sent_us);
        }
    }

    /// Records that the receiver has stored a snapshot, or not accepted it.
    pub(crate) fn receives(&self, way: (NodeId, NodeId), id: (Term, LogId), is_taken: bool) {
        if let Some(timeline) = self.world().shown() {
            timeline.snapshot_arrived(way, id.0, id.1, is_taken);
        }
    }
}

/// A request of a client in a recorded run. If it is dropped, the client has given up.
pub(crate) struct Asked<'a, A: App> {
    cluster: &'a Cluster<A>,
    number: u64,
}

impl<'a, A: App> Asked<'a, A> {
    pub fn new(
        cluster: &'a Cluster<A>,
        client: u64,
        to: NodeId,
        request: &A::Request,
    ) -> Option<Self> {
        let mut world = cluster.world();
        let timeline = world.shown()?;
        let words = cluster.shared.app.asks(request);
        let number = timeline.asked((client as usize, to.0 as usize), words);
        Some(Asked { cluster, number })
    }

    pub fn answered(self, answer: &Result<A::Response, CallError>) {
        let (outcome, words) = match answer {
            Ok(answer) => self.cluster.shared.app.answers(answer),
            Err(CallError::NotSent) => (Ended::NotDone, "never sent".to_owned()),
            Err(CallError::Lost) => (Ended::Unknown, "the connection broke".to_owned()),
        };
        self.ends(outcome, words);
    }

    fn ends(&self, outcome: Ended, words: String) {
        if let Some(timeline) = self.cluster.world().shown() {
            timeline.answered(self.number, outcome, words);
        }
    }
}

impl<A: App> Drop for Asked<'_, A> {
    fn drop(&mut self) {
        // After a panic there is no runtime, and so no time.
        if !std::thread::panicking() {
            self.ends(Ended::Unknown, "given up".to_owned());
        }
    }
}
