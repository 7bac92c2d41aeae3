//! `GET /v1/cluster`: the status of every member, as the leader sees it.
//!
//! A follower has no status of other members, so it fetches the answer from the leader. Without a
//! leader it answers with its own status. With `?local=true` a node always answers with its own
//! status.

use super::App;
use super::params;
use super::problem::Problem;
use super::routes;
use super::write::json_ok;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use driver::DriverStatus;
use hyper::StatusCode;
use raft::{Membership, NodeId};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use storage::ClusterId;

/// If the leader takes longer than this, the node answers with its own status.
const LEADER_TIMEOUT: Duration = Duration::from_millis(200);

/// `GET /v1/cluster`.
pub async fn cluster(State(app): State<Arc<App>>, request: Request) -> Response {
    answer(&app, request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn answer(app: &App, request: Request) -> Result<Response, Problem> {
    let mut local = None;
    for (name, value) in params::pairs(request.uri().query()) {
        match (&*name, &*value) {
            ("local", _) if local.is_some() => return Err(params::repeated("parameter", "local")),
            ("local", "true") => local = Some(true),
            ("local", "false") => local = Some(false),
            ("local", other) => {
                let detail = format!("local is {other:?}: expected true or false");
                return Err(Problem::malformed(detail));
            }
            (name, _) => return Err(params::unknown(name)),
        }
    }
    let status = app.handle.status();
    let leader = status.raft.leader.filter(|leader| *leader != app.id);
    if local != Some(true)
        && let Some(view) = from_leader(app, app.client_address(leader)).await
    {
        let view = match status.ready() {
            Ok(()) => view,
            Err(reason) => with_own_state(&view, app.id, &reason.to_string()).unwrap_or(view),
        };
        return Ok(routes::json(StatusCode::OK, view));
    }
    Ok(json_ok(&describe(app, &status)))
}

/// Fetches the leader's view of the cluster.
pub trait AskLeader: Send + Sync + 'static {
    /// The body of the answer to `GET /v1/cluster?local=true` from the node at `address`. `None` if
    /// there is none within `timeout`.
    fn cluster(&self, address: String, timeout: Duration) -> View;
}

/// A future of the JSON with which a leader answers.
pub type View = Pin<Box<dyn Future<Output = Option<Bytes>> + Send>>;

async fn from_leader(app: &App, address: Option<String>) -> Option<Bytes> {
    let (address, leader) = address.zip(app.leader.as_ref())?;
    let view = leader.cluster(address, LEADER_TIMEOUT).await?;
    is_of(&view, app.cluster).then_some(view)
}

/// Whether this is the view of a node of the cluster. The address of a leader that has moved may be
/// that of another cluster's node, or of no node, by now.
fn is_of(view: &Bytes, cluster: Option<ClusterId>) -> bool {
    let Ok(view) = serde_json::from_slice::<Value>(view) else { return false };
    view["cluster_id"].as_str() == cluster.map(|cluster| cluster.to_string()).as_deref()
}

/// The leader's view, with the state of this node in its own words. To the leader, a node whose
/// disk is full is only silent. `None` if the view does not have this node.
fn with_own_state(view: &Bytes, own: NodeId, state: &str) -> Option<Bytes> {
    let mut view: Value = serde_json::from_slice(view).ok()?;
    let members = view.get_mut("members")?.as_array_mut()?;
    let member = members.iter_mut().find(|member| member["id"] == own.0)?;
    member["state"] = state.into();
    serde_json::to_vec(&view).ok().map(Bytes::from)
}

pub(super) fn describe(app: &App, status: &DriverStatus) -> Value {
    let raft = &status.raft;
    let elsewhere = app.peers.as_ref().map(|read| read().elsewhere).unwrap_or_default();
    let members: Vec<Value> = raft
        .membership
        .members
        .iter()
        .map(|(id, member)| {
            let peer = raft.peers.iter().find(|peer| peer.id == *id);
            let matched = match peer {
                // Zero: a new leader has not received an answer of this peer yet.
                Some(peer) => Some(peer.matched).filter(|matched| matched.0 > 0),
                None => (*id == app.id).then_some(raft.durable),
            };
            // A new leader counts the silence of a peer from its own election.
            let silent = peer.map(|peer| status.tick * peer.silent_ticks);
            let is_self = *id == app.id;
            json!({
                "id": id.0,
                "role": role(status, *id),
                "voter": raft.membership.is_voter(*id),
                "client_address": member.client_address,
                "peer_address": member.peer_address,
                "reached_at": elsewhere.get(id),
                "state": state(app, status, *id, elsewhere.get(id)),
                "matched_index": matched.map(|index| index.0),
                "lag": matched.map(|index| raft.last.index.0.saturating_sub(index.0)),
                "last_heard_ms": if is_self { Some(0) } else { silent.map(|s| s.as_millis() as u64) },
                "agrees": peer.and_then(|peer| peer.agrees),
                "losses": peer.map(|peer| peer.losses),
                "priority": peer.map(|peer| peer.priority),
            })
        })
        .collect();
    json!({
        "node": app.id.0,
        "cluster_id": app.cluster.map(|cluster| cluster.to_string()),
        "serving": status.serving(),
        "lease": raft.lease,
        "not_ready": status.ready().err().map(|reason| reason.to_string()),
        "leader": raft.leader.map(|leader| leader.0),
        "term": raft.term.0,
        "last_index": raft.last.index.0,
        "durable_index": raft.durable.0,
        "commit_index": raft.commit.0,
        "applied_index": raft.applied.0,
        "snapshot_index": raft.snapshot.last.index.0,
        "commands": app.figures.history_next.load(Ordering::Relaxed),
        "first_command": app.figures.history_first.load(Ordering::Relaxed),
        "keys": app.figures.keys.load(Ordering::Relaxed),
        "revision": app.figures.revision.load(Ordering::Relaxed),
        "membership_version": raft.membership_index.0,
        "change": change(&raft.membership),
        "members": members,
    })
}

fn role(status: &DriverStatus, id: NodeId) -> &'static str {
    let raft = &status.raft;
    if raft.leader == Some(id) {
        return "leader";
    }
    if raft.membership.is_voter(id) { "voter" } else { "learner" }
}

/// The change of the members that is in progress, if there is one: the members that it leads to,
/// and what it waits for.
pub fn change(membership: &Membership) -> Value {
    let Some(target) = &membership.target else { return Value::Null };
    let ids = |ids: &BTreeSet<NodeId>| ids.iter().map(|id| id.0).collect::<Vec<_>>();
    let waits_for = match membership.is_joint() {
        true => "a majority of the old voters and one of the new",
        false => "the new voters to catch up, and a majority of all voters to store entries",
    };
    json!({
        "voters": ids(&target.voters),
        "learners": ids(&target.learners),
        "waits_for": waits_for,
    })
}

/// The state of a member in words. A node that is not the leader knows only its own.
fn state(app: &App, status: &DriverStatus, id: NodeId, elsewhere: Option<&String>) -> String {
    let raft = &status.raft;
    if id == app.id {
        return match status.ready() {
            Ok(()) => "up".to_owned(),
            Err(reason) => reason.to_string(),
        };
    }
    let Some(peer) = raft.peers.iter().find(|peer| peer.id == id) else {
        return "unknown".to_owned();
    };
    let silent = status.tick * peer.silent_ticks;
    if silent >= app.limits.silence_max {
        return format!("no answer for {}", seconds(silent));
    }
    if peer.agrees == Some(false) {
        return "its copy differs".to_owned();
    }
    if peer.in_snapshot {
        return "receiving a snapshot".to_owned();
    }
    if peer.matched.0 == 0 {
        return "unknown yet".to_owned();
    }
    let behind = raft.commit.0.saturating_sub(peer.matched.0);
    let lag = lag(behind, status.tick * peer.behind_ticks, app.limits.silence_max);
    match elsewhere {
        Some(address) => format!("{lag}, at {address}, which is not declared"),
        None => lag,
    }
}

/// How far a peer that replies is behind, and for how long if that is `long`.
fn lag(behind: u64, time: Duration, long: Duration) -> String {
    match behind {
        0 => "up".to_owned(),
        behind if time < long => format!("up, {behind} entries behind"),
        behind => format!("up, {behind} entries behind for {}", seconds(time)),
    }
}

/// Formats a time for people.
fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        seconds @ 10..120 => format!("{seconds} s"),
        seconds => format!("{} min", seconds / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_stays_behind_is_shown_with_how_long() {
        let lag =
            |behind, seconds| lag(behind, Duration::from_secs(seconds), Duration::from_secs(2));
        assert_eq!(lag(0, 99), "up");
        assert_eq!(lag(7, 1), "up, 7 entries behind");
        assert_eq!(lag(7, 42), "up, 7 entries behind for 42 s");
    }

    #[test]
    fn the_view_of_another_cluster_is_none() {
        let view = |cluster: Value| Bytes::from(json!({"cluster_id": cluster}).to_string());
        let own = ClusterId(7);
        assert!(is_of(&view(own.to_string().into()), Some(own)));
        assert!(!is_of(&view(ClusterId(8).to_string().into()), Some(own)));
        assert!(!is_of(&view(Value::Null), Some(own)));
        assert!(!is_of(&Bytes::from_static(b"<html>"), Some(own)));
    }

    #[test]
    fn a_node_that_is_not_ready_has_its_own_reason_in_the_leaders_view() {
        let view = json!({"node": 0, "members": [
            {"id": 0, "state": "up"}, {"id": 2, "state": "no answer for 3.0 s"},
        ]});
        let view = Bytes::from(view.to_string());
        let seen = with_own_state(&view, NodeId(2), "the disk has no room").unwrap();
        let seen: Value = serde_json::from_slice(&seen).unwrap();
        assert_eq!(seen["members"][0]["state"], "up");
        assert_eq!(seen["members"][1]["state"], "the disk has no room");
        assert_eq!(with_own_state(&view, NodeId(7), "new"), None);
    }
}
