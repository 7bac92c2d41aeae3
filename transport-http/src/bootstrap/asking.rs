//! Rounds of questions to the founders, and what this node makes of their answers.

use super::error::BootstrapError;
use super::question::{Answer, Asked, Purpose, Question, ask};
use super::service::BootstrapService;
use crate::dial::Names;
use crate::founders::{Founder, Listed, Lists};
use crate::net::Net;
use crate::repeats::Repeats;
use driver::report;
use futures_util::future::join_all;
use raft::NodeId;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Missing founders are reported once this much time has passed since the first question.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends questions to founders, one round after the other.
pub(super) struct Asking<'a, N> {
    own: &'a Founder,
    list: &'a [Listed],
    purpose: Purpose,
    names: Names<N>,
    begun: Instant,
    reported: Mutex<Repeats>,
}

impl<'a, N: Net> Asking<'a, N> {
    pub(super) fn new(net: &N, own: &'a Founder, list: &'a [Listed], purpose: Purpose) -> Self {
        let (names, begun) = (Names::new(net.clone()), net.now());
        Asking { own, list, purpose, names, begun, reported: Mutex::default() }
    }

    /// Sends a question to each of `peers`, all at the same time.
    pub(super) async fn round(&self, peers: &[Listed]) -> Vec<(Listed, Asked)> {
        self.round_for(peers, self.purpose).await
    }

    /// Sends a question with another purpose to each of `peers`.
    pub(super) async fn round_for(
        &self,
        peers: &[Listed],
        purpose: Purpose,
    ) -> Vec<(Listed, Asked)> {
        let ask = async |peer: Listed| {
            let question = Question {
                from: self.own.clone(),
                to: peer.node,
                list: self.list.to_vec(),
                purpose,
            };
            let asked = ask(&self.names, &peer.peer_address, &question).await;
            (peer, asked)
        };
        let mut asked = join_all(peers.iter().cloned().map(ask)).await;
        asked.sort_by(|(a, _), (b, _)| a.cmp(b));
        asked
    }

    pub(super) fn refused(
        &self,
        service: &BootstrapService,
        peer: Listed,
        asked: Asked,
    ) -> BootstrapError {
        let ours = Lists(self.list).to_string();
        let (node, Listed { node: peer, peer_address, .. }) = (self.own.node, peer);
        match asked {
            Asked::Answer(Answer::Removed) => BootstrapError::Removed { node, peer, peer_address },
            Asked::Wiped => BootstrapError::Wiped { node, peer, peer_address },
            Asked::OtherVersion(why) => BootstrapError::OtherVersion { peer, peer_address, why },
            Asked::Answer(Answer::Other(difference)) => {
                let theirs = match service.other_list_of(peer) {
                    Some(list) => Lists(&list).to_string(),
                    None => difference.describe(self.list),
                };
                match difference.of_members() {
                    true => BootstrapError::Stranger { node, peer, peer_address, ours, theirs },
                    false => self.other_list(peer, theirs),
                }
            }
            Asked::Refused => match service.other_list_of(peer) {
                Some(list) => self.other_list(peer, Lists(&list).to_string()),
                None => BootstrapError::NotAFounder { peer, peer_address, ours },
            },
            Asked::Misdirected | Asked::Answer(_) | Asked::Nothing(_) => {
                BootstrapError::WrongNode { peer, peer_address }
            }
        }
    }

    pub(super) fn other_list(&self, peer: NodeId, theirs: String) -> BootstrapError {
        let listed = self.list.iter().find(|listed| listed.node == peer);
        let peer_address = listed.map(|listed| listed.peer_address.clone()).unwrap_or_default();
        let ours = Lists(self.list).to_string();
        match ours == theirs {
            true => BootstrapError::OtherWay { peer, peer_address, list: ours },
            false => BootstrapError::OtherList { peer, peer_address, ours, theirs },
        }
    }

    /// Logs which peers have not answered: first after [`PATIENCE`], then when the list or a reason
    /// changes.
    pub(super) fn report(&self, silent: &[(Listed, String)], why: &str) {
        if self.names.net().now().duration_since(self.begun) < PATIENCE || silent.is_empty() {
            return;
        }
        let text: Vec<String> = (silent.iter())
            .map(|(peer, why)| format!("node {} at {} ({why})", peer.node, peer.peer_address))
            .collect();
        let text = text.join(", ");
        if self.reported.lock().unwrap_or_else(PoisonError::into_inner).is_news(&text) {
            report(|| tracing::warn!("waiting for {text}; {why}"));
        }
    }
}
