//! The commands of the history: one by its number, or all since a number.

use super::{Answer, busy, either, parameter, refused_read};
use crate::api::App;
use crate::api::offload::yield_now;
use crate::api::reply;
use crate::api::routes::{json, refusal};
use crate::commits::{self, Listing};
use crate::history::Record;
use crate::pieces::Pieces;
use crate::query::{Query, Received};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use driver::{Consistency, ReadError};
use hyper::{StatusCode, Uri};
use raft::CommandNumber;
use serde_json::json as value;
use std::sync::Arc;
use std::time::Duration;

/// How long a listing waits for a leader to confirm it. A client gets an answer within 4 s.
const LISTING_TIMEOUT: Duration = Duration::from_millis(3500);

/// `GET /get_commit?index=0`: the command with this number, from the state of this node.
pub async fn get_commit(State(app): State<Arc<App>>, uri: Uri) -> Response {
    either(try_get_commit(&app, &uri).await)
}

async fn try_get_commit(app: &App, uri: &Uri) -> Answer {
    let index = parameter(uri, "index")?
        .ok_or_else(|| refusal(StatusCode::BAD_REQUEST, "the parameter index is missing"))?;
    let number = CommandNumber(u64::try_from(index).unwrap_or(u64::MAX));
    match commit(app, number).await? {
        Found::Commit(record) => reply_commit(app, number, &record),
        Found::NotYet => {
            let error = format!("nothing is committed at index {index} yet");
            Err(refusal(StatusCode::NOT_FOUND, error))
        }
    }
}

/// The result of looking up a command on this node.
pub(super) enum Found {
    Commit(Box<Record>),
    NotYet,
}

pub(super) fn reply_commit(app: &App, number: CommandNumber, record: &Record) -> Answer {
    let mut pieces = Pieces::default();
    commits::add_commit(number, record, &mut pieces);
    let share = app.room(pieces.bytes()).map_err(|error| busy(&error.to_string()))?;
    Ok(reply::pieces(pieces, share))
}

pub(super) async fn commit(app: &App, number: CommandNumber) -> Result<Found, Response> {
    let consistency = Consistency::Stale { max_age: Duration::MAX };
    let ticket = app.answers.ticket();
    let answer = app.handle.read(Query::Commit(number).encode(&ticket), consistency).await;
    match Received::decode(answer.map_err(|error| refused_read(&error))?, &ticket) {
        Received::Commit(record) => Ok(Found::Commit(record)),
        Received::Compacted(first) => {
            let error = format!("index {number} is older than what is retained");
            let body = value!({ "error": error, "first_index": first.0 });
            Err(json(StatusCode::GONE, body.to_string()))
        }
        Received::Nothing | Received::Value(..) => Ok(Found::NotYet),
    }
}

/// `GET /get_commits_since?since_index=-1`: a linearizable read of the whole history, streamed.
pub async fn get_commits_since(State(app): State<Arc<App>>, uri: Uri) -> Response {
    either(try_get_commits_since(app, &uri).await)
}

async fn try_get_commits_since(app: Arc<App>, uri: &Uri) -> Answer {
    let since = parameter(uri, "since_index")?.unwrap_or(-1);
    let limit = match parameter(uri, "limit")? {
        None => u64::MAX,
        Some(limit) => u64::try_from(limit).map_err(|_| {
            refusal(StatusCode::BAD_REQUEST, format!("limit is {limit}: out of range"))
        })?,
    };
    let from = u64::try_from(since.max(-1).saturating_add(1)).unwrap_or(u64::MAX);
    let permit = app.listings.clone().try_acquire_owned();
    let permit = permit.map_err(|_| {
        app.pressure.raise();
        busy("too many listings are under way")
    })?;
    let frozen = app.handle.freeze_within(Consistency::Linearizable, LISTING_TIMEOUT).await;
    let state = frozen.map_err(|error| match error {
        ReadError::Busy => busy(&error.to_string()),
        _ => refusal(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    })?;
    let listing = Listing::new(state, CommandNumber(from), limit);
    let parts =
        futures_util::stream::unfold((app, listing, permit), async |(app, listing, permit)| {
            // Other requests run between two parts.
            yield_now().await;
            let (listing, part) = next_part(&app, listing).await?;
            Some((Ok::<_, std::convert::Infallible>(Bytes::from(part)), (app, listing, permit)))
        });
    Ok(json(StatusCode::OK, Body::from_stream(parts)))
}

/// Computes the next part of a listing, on another thread: the first one of a state with a long
/// history takes long, however short it is itself. `None` after the last.
async fn next_part(app: &App, mut listing: Listing) -> Option<(Listing, Vec<u8>)> {
    let _place = app.listing_work.acquire().await.ok()?;
    let part_bytes = app.limits.listing_part_bytes;
    let compute = move || listing.next_part(part_bytes).map(|part| (listing, part));
    app.offload(usize::MAX, compute).await?
}
