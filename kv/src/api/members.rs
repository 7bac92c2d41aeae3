//! `PUT /v1/cluster/members`: declares all members that the cluster is to have.
//!
//! Works on the leader; other nodes redirect to it. The answer comes once the change is in force,
//! or with status 202 when the time is over. The change goes on all the same.

use super::App;
use super::batch_json::Object;
use super::body;
use super::cluster;
use super::params;
use super::problem::{Known, Problem};
use super::routes;
use super::write::json_ok;
use crate::address;
use crate::descriptors::DECLARING;
use crate::plain::shown;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use driver::MembersError;
use hyper::StatusCode;
use quorate::{AdmitError, Members};
use raft::{ChangeError, Index};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How long the answer waits for the change by default.
const WAIT: Duration = Duration::from_secs(60);
/// The longest wait that is accepted.
const WAIT_MAX: Duration = Duration::from_secs(3_600);

/// The body of the request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Declared {
    members: Vec<Object<DeclaredMember>>,
    /// The version of the membership that the change is made for.
    if_version: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeclaredMember {
    id: u64,
    client: String,
    peer: String,
    #[serde(default)]
    role: DeclaredRole,
}

#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum DeclaredRole {
    #[default]
    Voter,
    Learner,
}

/// The parameters of the request.
struct Wanted {
    wait: Duration,
    force: bool,
}

/// Answers the request.
pub async fn members(State(app): State<Arc<App>>, request: Request) -> Response {
    run(&app, request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn run(app: &App, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    params::of_no_session(&parts.headers).map_err(Problem::not_done)?;
    let wanted = wanted(parts.uri.query()).map_err(Problem::not_done)?;
    let body = body::whole(body).await;
    let declared: Declared = serde_json::from_slice(&body)
        .map(|Object(declared)| declared)
        .map_err(|error| Problem::malformed(format!("the body is not understood: {error}")))
        .map_err(Problem::not_done)?;
    let mut members = declared_members(&declared).map_err(Problem::not_done)?;
    if wanted.force {
        members = members.force();
    }
    if let Some(redirect) = app.redirect_to_leader(&parts.uri) {
        return Ok(redirect);
    }
    let admission = app.admission.as_ref().ok_or_else(|| {
        Problem::not_built("the members of this cluster cannot be changed").not_done()
    })?;
    let status = app.handle.status();
    // A declaration that asks no node takes no time.
    let checking = match admission.asks(&status.raft, &members) {
        true => Some(app.declarations.try_acquire().map_err(|_| too_many_at_once())?),
        false => None,
    };
    let change = admission.change(&status.raft, &members).await;
    let change = change.map_err(|error| not_admitted(&error).not_done())?;
    let begun = app.handle.set_members(change.clone()).await.map_err(refused)?;
    drop(checking);
    // Without a place to wait, the answer comes at once.
    let place = app.changes.try_acquire();
    let sleep = app.sleep(if place.is_ok() { wanted.wait } else { Duration::ZERO });
    let over = async {
        tokio::select! {
            () = sleep => {}
            () = app.leaving.begun() => {}
        }
    };
    tokio::select! {
        biased;
        done = app.handle.members_set(begun, &change) => match done {
            Ok(_) => Ok(json_ok(&cluster::describe(app, &app.handle.status()))),
            Err(error) => Err(refused(error)),
        },
        () = over => {
            let view = cluster::describe(app, &app.handle.status());
            Ok(routes::json(StatusCode::ACCEPTED, view.to_string()))
        }
    }
}

fn too_many_at_once() -> Problem {
    let detail = format!("{DECLARING} declarations of members are being checked at the moment");
    Problem::overloaded(detail).not_done()
}

fn wanted(query: Option<&str>) -> Result<Wanted, Problem> {
    let (mut wait, mut force) = (None, None);
    for (name, value) in params::pairs(query) {
        match (&*name, &*value) {
            ("wait", _) if wait.is_some() => return Err(params::repeated("parameter", "wait")),
            ("force", _) if force.is_some() => return Err(params::repeated("parameter", "force")),
            ("wait", text) => wait = Some(params::duration("wait", text)?),
            ("force", "true") => force = Some(true),
            ("force", "false") => force = Some(false),
            ("force", other) => {
                let detail = format!("force is {other:?}: expected true or false");
                return Err(Problem::malformed(detail));
            }
            (name, _) => return Err(params::unknown(name)),
        }
    }
    let wait = wait.unwrap_or(WAIT);
    if wait > WAIT_MAX {
        let detail = format!(
            "wait is {wait:?}: the answer waits for at most {} min; the change goes on afterwards",
            WAIT_MAX.as_secs() / 60
        );
        return Err(Problem::malformed(detail));
    }
    Ok(Wanted { wait, force: force.unwrap_or(false) })
}

fn declared_members(declared: &Declared) -> Result<Members, Problem> {
    let (count, max) = (declared.members.len(), raft::CLUSTER_MEMBERS_MAX);
    if count > max {
        let detail = format!("{count} members are declared: a cluster has at most {max}");
        return Err(Problem::malformed(detail));
    }
    let (mut ids, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    let mut members = Members::new();
    for Object(DeclaredMember { id, client, peer, role }) in &declared.members {
        if !ids.insert(*id) {
            return Err(Problem::malformed(format!("node {id} is declared twice")));
        }
        for given in [client, peer] {
            address::check(given)
                .map_err(|why| Problem::malformed(format!("node {id}: {} {why}", shown(given))))?;
            if !addresses.insert(given.to_ascii_lowercase()) {
                let detail = format!("{given} is declared twice: each listener needs its own");
                return Err(Problem::malformed(detail));
            }
        }
        members = match role {
            DeclaredRole::Voter => members.voter(*id, peer, client),
            DeclaredRole::Learner => members.learner(*id, peer, client),
        };
    }
    Ok(match declared.if_version {
        Some(version) => members.if_version(Index(version)),
        None => members,
    })
}

fn not_admitted(error: &AdmitError) -> Problem {
    let advice = match error {
        AdmitError::Address { .. } => return Problem::malformed(error.to_string()),
        AdmitError::Silent { .. }
        | AdmitError::NotWaiting { .. }
        | AdmitError::OtherCluster { .. } => " (raft-kv serve --join)",
        AdmitError::NotMoved { .. } => "; with --force (?force=true) they are declared unchecked",
        _ => "",
    };
    unsafe_change(format!("{error}{advice}"))
}

fn unsafe_change(detail: String) -> Problem {
    Problem::new(StatusCode::PRECONDITION_FAILED, "members-unsafe", detail)
}

fn refused(error: MembersError) -> Problem {
    let detail = error.to_string();
    let conflict = |slug| Problem::new(StatusCode::CONFLICT, slug, detail.clone());
    match error {
        MembersError::Refused(error) => match error {
            ChangeError::NotLeader { .. } | ChangeError::Transferring => Problem::no_leader(),
            ChangeError::UnderWay => conflict("members-changing"),
            ChangeError::OtherVersion { version } => {
                conflict("members-changing").with("membership_version", version.0)
            }
            ChangeError::NoQuorum { .. } => unsafe_change(format!(
                "{detail}; with --force (?force=true) it begins all the same, and waits for them"
            )),
            ChangeError::OtherIncarnation { .. } | ChangeError::WasRemoved { .. } => {
                unsafe_change(detail)
            }
            _ => Problem::malformed(detail),
        }
        .not_done(),
        MembersError::GivenUp => conflict("members-given-up").not_done(),
        MembersError::Superseded => conflict("members-superseded").outcome(Known::Unknown),
        MembersError::Busy => Problem::overloaded(detail).not_done(),
        _ => Problem::stopped().outcome(Known::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declare(body: &str) -> Result<Members, String> {
        let Object(declared) = serde_json::from_str(body).map_err(|error| error.to_string())?;
        declared_members(&declared).map_err(|problem| format!("{problem:?}"))
    }

    #[test]
    fn a_declaration_is_understood_or_refused_with_its_fault() {
        let body = r#"{"members": [
            {"id": 0, "client": "h:80", "peer": "h:90"},
            {"id": 7, "client": "h:81", "peer": "h:91", "role": "learner"}], "if_version": 3}"#;
        let expected = Members::new().voter(0, "h:90", "h:80").learner(7, "h:91", "h:81");
        assert_eq!(declare(body), Ok(expected.if_version(Index(3))));
        let name = "a".repeat(70_000);
        let long =
            format!(r#"{{"members": [{{"id": 0, "client": "h:80", "peer": "{name}:90"}}]}}"#);
        for (body, fault) in [
            (r#"{"members": [{"id": 0, "client": "h:80"}]}"#, "peer"),
            (r#"{"members": [{"id": 0, "client": "h:80", "peer": "h:0"}]}"#, "port 0"),
            (r#"{"members": [{"id": 0, "client": "h:80", "peer": "0.0.0.0:9"}]}"#, "listen on"),
            (r#"{"members": [{"id": 0, "client": "h:80", "peer": "h:80"}]}"#, "twice"),
            (r#"{"members": [{"id": 0, "client": "a:1", "peer": "a:2", "role": "x"}]}"#, "voter"),
            (r#"{"members": [{"id": 0, "client": "h:80", "peer": "h\n:90"}]}"#, "contains '\\\\n'"),
            (r#"{"members": [{"id": 0, "client": "\u001b[31m:80", "peer": "h:90"}]}"#, "u{1b}"),
            (&long, "at most 261"),
            (r#"{"members": [{"id": -1, "client": "a:1", "peer": "a:2"}]}"#, "-1"),
            (r#"{"members": [[0, "a:1", "a:2"]]}"#, "object"),
            (r#"{"members": [], "version": 3}"#, "version"),
            (r#"{}"#, "members"),
        ] {
            let error = declare(body).unwrap_err();
            assert!(error.contains(fault) && error.len() < 1_000, "{body}: {error}");
        }
        let twice = r#"{"members": [{"id": 0, "client": "a:1", "peer": "a:2"},
            {"id": 0, "client": "b:1", "peer": "b:2"}]}"#;
        assert!(declare(twice).unwrap_err().contains("node 0 is declared twice"));
    }

    #[test]
    fn the_parameters_are_a_time_and_whether_to_force() {
        let wanted = |query| wanted(query).map(|wanted| (wanted.wait, wanted.force)).ok();
        assert_eq!(wanted(None), Some((WAIT, false)));
        assert_eq!(wanted(Some("wait=5s&force=true")), Some((Duration::from_secs(5), true)));
        for query in ["wait=x", "wait=1s&wait=2s", "force=1", "forced=true", "wait=100000s"] {
            assert_eq!(wanted(Some(query)), None, "{query}");
        }
    }
}
