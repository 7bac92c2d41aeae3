//! The final checks, when all is quiet: every node lists the same commits, a replay of them gives
//! the values that reads return, and `get_commit` returns the same for each.

use super::history::FIELDS;
use super::replay::Replica;
use super::served::Asks;
use super::store::Store;
use super::wires::{KEYS, escaped, version};
use hyper::{Method, StatusCode};
use kv::client::{Request, Response};
use serde_json::{Value, json};
use simulator::checks::{Check, Violation, violation};
use std::collections::BTreeSet;
use transport_sim::Cluster;

/// Keys that clients write but never read.
const UNREAD: [&str; 2] = ["empty", "nothing"];
/// Number of commits that are fetched one by one.
const ASKED: usize = 5;

/// Compares the answers of all nodes.
pub async fn words(store: &Store, cluster: &Cluster<Store>) -> Result<(), Violation> {
    let nodes = Asks::everybody(cluster);
    let floor = store.history().done();
    let mut first: Option<Response> = None;
    for asks in &nodes {
        let answer = listing(asks, -1).await?;
        store.history().listing(&answer.json(), -1, floor)?;
        let known = first.get_or_insert_with(|| answer.clone());
        if known.body != answer.body {
            return violation(
                Check::EveryNodeListsTheSame,
                [nodes[0].node, asks.node],
                differ(&nodes[0], known, asks, &answer),
            );
        }
    }
    let Some(listed) = first else { return Ok(()) };
    let listed = listed.json();
    let commits = listed["commits"].as_array().cloned().unwrap_or_default();
    let complete = store.history().is_complete();
    for asks in &nodes {
        one_by_one(asks, &commits, complete).await?;
    }
    let mut whole = Replica::new();
    whole.take(&commits);
    reads(store, &nodes, &whole).await?;
    let forgets = store.history().forgets();
    match forgets {
        true => Ok(()),
        false => replicas(store, &nodes, &whole).await,
    }
}

async fn listing(asks: &Asks, since: i64) -> Result<Response, Violation> {
    let path = format!("/get_commits_since?since_index={since}");
    let request = Request::new(Method::GET, path);
    asks.until(&request, |answer| answer.status == StatusCode::OK).await
}

fn differ(one: &Asks, known: &Response, other: &Asks, answer: &Response) -> String {
    let same = known.body.iter().zip(&answer.body).take_while(|(a, b)| a == b).count();
    let tail = |answer: &Response| {
        let body = &answer.body;
        let from = same.saturating_sub(40);
        String::from_utf8_lossy(&body[from..body.len().min(same + 80)]).into_owned()
    };
    let (one, other) = (one.node, other.node);
    let (known, answer) = (tail(known), tail(answer));
    format!("after {same} bytes node {one} has {known:?} and node {other} has {answer:?}")
}

/// Checks that some commits, fetched by their number, are those of the listing.
async fn one_by_one(asks: &Asks, commits: &[Value], complete: bool) -> Result<(), Violation> {
    let Some(last) = commits.last().and_then(|commit| commit["index"].as_u64()) else {
        return Ok(());
    };
    let ask = async |index: u64| {
        let request = Request::new(Method::GET, format!("/get_commit?index={index}"));
        let known = [StatusCode::OK, StatusCode::NOT_FOUND, StatusCode::GONE];
        asks.until(&request, |answer| known.contains(&answer.status)).await
    };
    let broken = |index: u64, answer: &Response, listed: &Value| {
        let detail = format!(
            "node {}, number {index}: {} {:?}, and listed is {listed}",
            asks.node, answer.status, answer.body
        );
        violation(Check::GetCommitSaysWhatTheListingSays, asks.node, detail)
    };
    let beyond = ask(last + 1).await?;
    if beyond.status != StatusCode::NOT_FOUND {
        return broken(last + 1, &beyond, &Value::Null);
    }
    let numbers: BTreeSet<u64> = commits.iter().filter_map(|c| c["index"].as_u64()).collect();
    let step = (numbers.len() / ASKED).max(1);
    for index in numbers.iter().rev().copied().step_by(step).take(ASKED + 1) {
        let Some(listed) = commits.iter().find(|commit| commit["index"] == index) else { continue };
        let answer = ask(index).await?;
        let said = answer.json();
        let (command, shown) = (&said["command"], &listed["command"]);
        let as_listed = match answer.status {
            StatusCode::OK => {
                // A command that changed nothing may be listed as a get of its key.
                let alike = command == shown || shown["kind"] == "get";
                let same = said["index"] == index && said["term"] == listed["term"];
                same && alike && command["key"] == shown["key"]
            }
            // The latest commit is never gone.
            StatusCode::GONE => {
                let first = said["first_index"].as_u64();
                !complete && first.is_some_and(|first| index < first && first <= last)
            }
            _ => false,
        };
        if !as_listed {
            return broken(index, &answer, listed);
        }
    }
    Ok(())
}

/// Checks that every key that was ever written, listed or not, has the value that a replay of the
/// listing gives, on every node and through both APIs.
async fn reads(store: &Store, nodes: &[Asks], whole: &Replica) -> Result<(), Violation> {
    let others = whole.keys().filter(|key| !KEYS.contains(key));
    for key in KEYS.iter().copied().chain(UNREAD).chain(others) {
        let mut first: Option<Response> = None;
        for asks in nodes {
            let request = Request::new(Method::GET, format!("/v1/kv/{}", escaped(key)));
            let known = [StatusCode::OK, StatusCode::NOT_FOUND];
            let answer = asks.until(&request, |answer| known.contains(&answer.status)).await?;
            let first = first.get_or_insert_with(|| answer.clone());
            let said = |answer: &Response| (answer.status, version(answer));
            if said(first) != said(&answer) || first.body != answer.body {
                let (one, other) = (said(first), said(&answer));
                let detail = format!("{key:?} is {one:?}, and at node {} {other:?}", asks.node);
                return violation(Check::EveryNodeReadsTheSame, asks.node, detail);
            }
        }
        let (Some(answer), Some(asks)) = (first, nodes.first()) else { return Ok(()) };
        let found = (answer.status == StatusCode::OK)
            .then(|| String::from_utf8_lossy(&answer.body).into_owned());
        let (read, replayed) = (found.as_deref().unwrap_or_default(), whole.value(key));
        if read != replayed {
            let detail = format!("{key:?} is {read:?} and {replayed:?} in a replay");
            return violation(Check::ReplayOfTheListingIsTheStore, (), detail);
        }
        fields(store, asks, key, &answer, found.as_deref()).await?;
    }
    Ok(())
}

/// Checks the other fields: the version is one that was answered with this value, and the older API
/// finds the key if it exists.
async fn fields(
    store: &Store,
    asks: &Asks,
    key: &str,
    answer: &Response,
    found: Option<&str>,
) -> Result<(), Violation> {
    let version = version(answer);
    if version.is_some() != found.is_some() {
        return violation(FIELDS, (), format!("{key:?}: {}, version {version:?}", answer.status));
    }
    let known = version.and_then(|version| store.history().value_of(version));
    if known.is_some_and(|known| store.values.bytes(known) != answer.body) {
        let detail = format!("version {version:?} of {key:?} was answered with value {known:?}");
        return violation(Check::VersionIsOneValue, (), detail);
    }
    let body = json!({ "key": key }).to_string();
    let get = Request::new(Method::POST, "/get").body(body);
    let answer = asks.until(&get, |answer| answer.json()["resp_status"] == 0).await?.json();
    if answer["value"].as_str() != found || answer["key_found"] != found.is_some() {
        let detail = format!("{key:?} is {found:?}, and through the older API {answer}");
        return violation(FIELDS, (), detail);
    }
    Ok(())
}

/// Checks that every copy of a client equals the store once it has replayed the commits that it
/// lacks.
async fn replicas(store: &Store, nodes: &[Asks], whole: &Replica) -> Result<(), Violation> {
    let replicas = store.history().replicas();
    for ((client, mut replica), asks) in replicas.into_iter().zip(nodes.iter().cycle()) {
        let since = replica.since;
        let answer = listing(asks, since).await?.json();
        replica.take(answer["commits"].as_array().map_or(&[], Vec::as_slice));
        if let Some(key) = replica.difference(whole) {
            let (own, other) = (replica.value(key), whole.value(key));
            let detail = format!(
                "{key:?} is {own:?} for client {client}, who has listed what came after {since} now, \
                 and {other:?} for who lists all"
            );
            return violation(Check::ReplayOfTheListingIsTheStore, (), detail);
        }
    }
    Ok(())
}
