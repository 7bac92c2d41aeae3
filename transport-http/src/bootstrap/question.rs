//! The one request of a bootstrap, its response, and how it is sent.

use crate::allowance::{Allowed, SHORT_ANSWER_BYTES_MAX};
use crate::dial::{Names, Trial};
use crate::founders::{Difference, Founder, Listed};
use crate::hello::{Refusal, open, seal};
use crate::net::{Net, timeout};
use crate::repeats::one_line;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use raft::{AddressError, Member, Membership, NodeId};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use storage::ClusterId;

/// Where a question is posted.
pub(crate) const PATH: &str = "/raft/v1/bootstrap";
/// The most bytes of a question, and of its answer.
pub(crate) const QUESTION_BYTES_MAX: usize = 64 << 10;
/// How long a peer may take to answer, once it is connected.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a node asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Purpose {
    /// It bootstraps a cluster, together with all nodes on its list.
    Bootstrap,
    /// Its data directory is empty, and it waits to be added to the cluster of the nodes on its
    /// list. A member of this cluster is about to add it: is that theirs?
    Join(Option<ClusterId>),
    /// It is a member of this cluster, to which the node that it asks is to be added.
    Admit(ClusterId),
}

/// A request for the identity or the cluster of another node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Question {
    pub(super) from: Founder,
    pub(super) to: NodeId,
    /// The list of members that the sender was given. To admit a node: its entry, then those of the
    /// sender's members.
    pub(super) list: Vec<Listed>,
    pub(super) purpose: Purpose,
}

/// The response to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The responder bootstraps, too, or can be added to the sender's cluster: its identity.
    Founder(Founder),
    /// The responder belongs to a cluster of which the sender is a member.
    Member(ClusterId, Membership),
    /// The responder has another list of founders, or is in a cluster with other members.
    Other(Difference),
    /// The responder is a member of the cluster that is about to add the sender.
    Ours(ClusterId),
    /// The responder waits to be added to the cluster of these nodes. The sender's cluster has none
    /// of them as a member.
    Elsewhere(Vec<Listed>),
    /// The sender, with this incarnation, was removed from the responder's cluster.
    Removed,
}

impl Answer {
    /// Checks the addresses in it. They are kept for good, and printed.
    fn check(&self) -> Result<(), AddressError> {
        match self {
            Answer::Founder(founder) => founder.listed().check(),
            Answer::Member(_, membership) => {
                membership.members.values().try_for_each(Member::check_addresses)
            }
            Answer::Elsewhere(list) => list.iter().try_for_each(Listed::check),
            Answer::Other(_) | Answer::Ours(_) | Answer::Removed => Ok(()),
        }
    }
}

/// The outcome of a question.
#[derive(Debug)]
pub(super) enum Asked {
    Answer(Answer),
    Refused,
    Wiped,
    Misdirected,
    OtherVersion(String),
    /// No usable answer yet, and why.
    Nothing(String),
}

/// Asks a peer.
pub(super) async fn ask<N: Net>(
    names: &Names<N>,
    peer_address: &str,
    question: &Question,
) -> Asked {
    let question = Bytes::from(seal(question));
    let (status, body, mut trial) = match post(names, peer_address, question).await {
        Ok(answered) => answered,
        Err(why) => return Asked::Nothing(why),
    };
    match (status, open::<Answer>(&body)) {
        (StatusCode::OK | StatusCode::FORBIDDEN, Ok(answer)) => match answer.check() {
            Ok(()) => {
                trial.accept();
                Asked::Answer(answer)
            }
            Err(why) => Asked::Nothing(format!("in its answer, an address {why}")),
        },
        (StatusCode::FORBIDDEN, Err(_)) => Asked::Refused,
        (StatusCode::CONFLICT, _) => Asked::Wiped,
        (StatusCode::MISDIRECTED_REQUEST, _) => Asked::Misdirected,
        // A node gives its reason. Without one, a server on the way has answered.
        (StatusCode::BAD_REQUEST, _) if !body.is_empty() => Asked::OtherVersion(one_line(&body)),
        (StatusCode::SERVICE_UNAVAILABLE, _) => Asked::Nothing("it is starting".to_owned()),
        (
            StatusCode::OK,
            Err(refusal @ (Refusal::NewerVersion { .. } | Refusal::OlderVersion { .. })),
        ) => Asked::OtherVersion(refusal.to_string()),
        (status, _) => Asked::Nothing(format!("it answers with {status}, as no node does")),
    }
}

/// Posts a question to a peer. Returns the status and the body of the response, or why
/// there is none. The address counts as suspect unless the caller accepts the response.
async fn post<N: Net>(
    names: &Names<N>,
    address: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes, Trial), String> {
    let (tcp, trial) = names.dial(address).await.map_err(|error| error.to_string())?;
    let (tcp, _) = Allowed::new(tcp, SHORT_ANSWER_BYTES_MAX);
    let ask = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.map_err(text_of)?;
        let request = Request::post(PATH).header(hyper::header::HOST, address);
        let request = request.body(Full::new(body)).map_err(text_of)?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(text_of)?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), QUESTION_BYTES_MAX).collect().await;
            Ok((status, body.map_err(text_of)?.to_bytes()))
        };
        tokio::pin!(answer, connection);
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            // The connection ended first: the rest of the response is buffered already.
            _ = &mut connection => answer.await,
        }
    };
    let answered = timeout(names.net(), ANSWER_TIMEOUT, ask).await;
    let answered = answered.unwrap_or_else(|_| Err(format!("no answer within {ANSWER_TIMEOUT:?}")));
    match answered {
        Ok((status, body)) => Ok((status, body, trial)),
        Err(why) => Err(format!("{why} (at {})", trial.at())),
    }
}

fn text_of(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::Incarnation;

    #[test]
    fn an_answer_with_an_address_that_could_not_be_printed_counts_for_nothing() {
        let node = NodeId(1);
        let with = |address: &str| {
            let (client_address, peer_address) = (address.to_owned(), "a:1".to_owned());
            let incarnation = Incarnation(1);
            let listed = Listed { node, client_address, peer_address };
            let Listed { client_address, peer_address, .. } = listed.clone();
            let member = Member { incarnation, peer_address, client_address };
            let membership = Membership::of_voters([(node, member)].into());
            [Answer::Elsewhere(vec![listed]), Answer::Member(ClusterId(1), membership)]
        };
        assert!(with("").iter().chain(&with("b:2")).all(|answer| answer.check().is_ok()));
        assert!(with("b\n:2").iter().all(|answer| answer.check().is_err()));
    }
}
