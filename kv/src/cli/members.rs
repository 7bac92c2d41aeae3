//! `raft-kv members`: shows and changes the members of the cluster.
//!
//! Each change reads the present members, and declares all that the cluster is to have next. The
//! declaration names the version that was read, so of two changes at once only one is done.

use super::client::{self, Client, ServerArgs};
use super::table::{plain, table};
use super::{duration, exit, input};
use hyper::{Method, StatusCode};
use kv::address::member;
use kv::client::{CallError, Request};
use kv::serve::Peer;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// The pause between two requests for the progress of a change.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A line of progress of which only the numbers have changed is printed after this time.
const REPORT_EVERY: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    change: Option<Change>,
    /// Print the members as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(clap::Subcommand)]
enum Change {
    /// Add nodes, each started with `serve --join` on an empty directory. The id of a member
    /// changes its addresses or its role
    Add {
        /// The node, as ID=CLIENT_HOST:PORT/PEER_HOST:PORT
        #[arg(required = true, value_parser = member)]
        members: Vec<Peer>,
        /// Without a vote: the node receives all data, and counts for no majority
        #[arg(long)]
        learner: bool,
        #[command(flatten)]
        options: Options,
    },
    /// Remove members. They stop by themselves
    Remove {
        /// The ids of the members
        #[arg(required = true)]
        ids: Vec<u64>,
        #[command(flatten)]
        options: Options,
    },
    /// Replace a member, for instance one whose disk is lost, in one change
    Replace {
        /// The id of the member that goes
        id: u64,
        /// The new node, as ID=CLIENT_HOST:PORT/PEER_HOST:PORT, started with `serve --join`
        #[arg(long, value_parser = member)]
        with: Peer,
        #[command(flatten)]
        options: Options,
    },
}

#[derive(clap::Args)]
struct Options {
    /// Do not check that a majority of the new voters answers now, nor new addresses of members.
    /// The change still waits for such a majority before it takes effect
    #[arg(long)]
    force: bool,
    /// Wait for the change for at most this time. It goes on afterwards
    #[arg(long, default_value = "10m", value_parser = duration::parse)]
    wait: Duration,
    #[command(flatten)]
    server: ServerArgs,
}

/// How an operator ends a change that does not go on.
const WAY_OUT: &str = "as long as a new voter catches up, `members remove` with the ids of all new \
                       voters gives the change up; for those that were learners before, `members \
                       add --learner` does";

/// The client address, the peer address and the role of each member.
type Declared = BTreeMap<u64, (String, String, &'static str)>;

/// Shows the members, or changes them and shows the result.
pub fn run(args: &Args) -> u8 {
    let ended = match &args.change {
        None => show(args),
        Some(Change::Add { members, learner, options }) => {
            let role = if *learner { "learner" } else { "voter" };
            // A learner that does not catch up is kept as one by giving up its promotion.
            change(options, *learner, |declared| {
                each_once(members.iter().map(|peer| peer.id.0))?;
                declared.extend(members.iter().map(|peer| entry(peer, role)));
                Ok(())
            })
        }
        // A node that has not caught up is removed by giving up the change that adds it.
        Some(Change::Remove { ids, options }) => change(options, true, |declared| {
            each_once(ids.iter().copied())?;
            ids.iter().try_for_each(|id| remove(declared, *id).map(drop))
        }),
        Some(Change::Replace { id, with, options }) => change(options, false, |declared| {
            if declared.contains_key(&with.id.0) {
                return Err(match with.id.0 == *id {
                    true => format!(
                        "node {id} cannot take its own place in one change: remove it, start it with \
                         an empty data directory and --join, and add it"
                    ),
                    false => format!("node {} is a member already", with.id),
                });
            }
            let role = remove(declared, *id)?;
            declared.extend([entry(with, role)]);
            Ok(())
        }),
    };
    ended.unwrap_or_else(|error| client::report(&error))
}

/// An error if an id is given twice: which of the two would count?
fn each_once(ids: impl Iterator<Item = u64>) -> Result<(), String> {
    let mut all = BTreeSet::new();
    for id in ids {
        if !all.insert(id) {
            return Err(format!("node {id} is given twice"));
        }
    }
    Ok(())
}

fn entry(peer: &Peer, role: &'static str) -> (u64, (String, String, &'static str)) {
    (peer.id.0, (peer.client_address.clone(), peer.peer_address.clone(), role))
}

fn remove(declared: &mut Declared, id: u64) -> Result<&'static str, String> {
    let removed = declared.remove(&id);
    removed.map(|(_, _, role)| role).ok_or_else(|| format!("node {id} is not a member"))
}

fn show(args: &Args) -> Result<u8, CallError> {
    let client = Client::new(&args.server)?;
    let mut cluster = view(&client)?;
    let silent = client.add_silence(&mut cluster);
    let text = match args.json {
        true => json!({
            "membership_version": cluster["membership_version"],
            "change": cluster["change"],
            "members": cluster["members"],
        })
        .to_string(),
        false => describe(&cluster),
    };
    let printed = print(&text);
    match silent {
        Some(why) if printed == exit::DONE => Err(CallError::NotDone(why)),
        _ => Ok(printed),
    }
}

fn print(text: &str) -> u8 {
    match input::print_line(text.trim_end()) {
        Ok(()) => exit::DONE,
        Err(error) => input::not_printed(&error),
    }
}

/// The cluster as its leader sees it.
fn view(client: &Client) -> Result<Value, CallError> {
    let response = client.view()?;
    match response.status.is_success() {
        true => Ok(response.json()),
        false => Err(CallError::NotDone(response.explanation())),
    }
}

/// Changes the members with `edit`, which with `gives_up` may undo a change in progress, waits for
/// the end of the change, and prints the members.
fn change(
    options: &Options,
    gives_up: bool,
    edit: impl FnOnce(&mut Declared) -> Result<(), String>,
) -> Result<u8, CallError> {
    let client = Client::new(&options.server)?;
    let cluster = view(&client)?;
    if cluster["leader"].is_null() {
        return Err(CallError::NotDone("no leader is known; try again".to_owned()));
    }
    if !cluster["change"].is_null() && !gives_up {
        return Err(CallError::NotDone(format!(
            "another change is in progress, and waits for {}; {WAY_OUT}",
            plain(&cluster["change"]["waits_for"])
        )));
    }
    let mut declared = members(&cluster);
    let before = declared.clone();
    edit(&mut declared).map_err(CallError::NotDone)?;
    if declared == before && cluster["change"].is_null() {
        for member in silent(&cluster) {
            exit::complain(format_args!(
                "{member}; if its disk was replaced, remove it, start it with an empty data \
                 directory and --join, and add it again"
            ));
        }
        return Ok(print(&format!(
            "{}unchanged: these are the members already",
            describe(&cluster)
        )));
    }
    let body = json!({
        "members": declared.iter().map(|(id, (client, peer, role))| json!({
            "id": id, "client": client, "peer": peer, "role": role,
        })).collect::<Vec<_>>(),
        "if_version": cluster["membership_version"],
    });
    let path = format!("/v1/cluster/members?wait=1s&force={}", options.force);
    let asked = client.call(&Request::new(Method::PUT, path).body(body.to_string()));
    let response = asked.map_err(|error| match error {
        CallError::Unknown(why) => {
            CallError::Unknown(format!("{why}; `raft-kv members` shows what became of it"))
        }
        error @ CallError::NotDone(_) => error,
    })?;
    match response.status {
        StatusCode::ACCEPTED => wait(&client, options.wait, &declared, &response.json()),
        status if status.is_success() => Ok(print(&describe(&response.json()))),
        status => {
            let code = client::refused(&response);
            if status == StatusCode::CONFLICT && !cluster["change"].is_null() {
                exit::complain(WAY_OUT);
            }
            Ok(code)
        }
    }
}

/// The members that do not answer the leader, with their states.
fn silent(cluster: &Value) -> Vec<String> {
    let all = cluster["members"].as_array().into_iter().flatten();
    let states = all.map(|member| (member, plain(&member["state"])));
    let silent = states.filter(|(_, state)| state.starts_with("no answer"));
    silent.map(|(member, state)| format!("node {}: {state}", member["id"])).collect()
}

/// Waits for the end of a change that has begun, and reports its progress.
fn wait(
    client: &Client,
    within: Duration,
    declared: &Declared,
    begun: &Value,
) -> Result<u8, CallError> {
    let began = Instant::now();
    let mut reported: Option<(String, Instant)> = None;
    let mut cluster = begun.clone();
    loop {
        if cluster["change"].is_null() && !cluster["leader"].is_null() {
            if members(&cluster) == *declared {
                return Ok(print(&describe(&cluster)));
            }
            let why = "the change was given up: a new voter did not catch up in time, another \
                           change took its place, or the leader that began it was lost";
            return Err(CallError::NotDone(why.to_owned()));
        }
        let text = progress(&cluster);
        // Only the numbers of a line may have changed: how far behind, or silent for how long.
        let is_news = reported.as_ref().is_none_or(|(before, at)| {
            *before != text && (!is_same_but_numbers(before, &text) || at.elapsed() >= REPORT_EVERY)
        });
        if is_news {
            exit::complain(&text);
            reported = Some((text, Instant::now()));
        }
        if began.elapsed() >= within {
            let why = "the change is still in progress; `raft-kv members` shows how far it is";
            return Err(CallError::Unknown(why.to_owned()));
        }
        std::thread::sleep(LOOK_EVERY);
        // A node that does not answer may be the one that is removed; the others are asked next.
        if let Ok(seen) = view(client) {
            cluster = seen;
        }
    }
}

/// Whether two lines differ in their numbers only.
fn is_same_but_numbers(one: &str, other: &str) -> bool {
    let words = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    words(one) == words(other)
}

/// The reason why a change is not done yet, with the state of each new voter.
fn progress(cluster: &Value) -> String {
    let change = &cluster["change"];
    let targets = change["voters"].as_array().map(Vec::as_slice).unwrap_or_default();
    let all = cluster["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    let new = all.iter().filter(|m| m["voter"] == false && targets.contains(&m["id"]));
    let states: Vec<_> = new.map(|m| format!("node {}: {}", m["id"], plain(&m["state"]))).collect();
    match change["waits_for"].as_str() {
        Some(what) if states.is_empty() => format!("waiting for {what}"),
        Some(what) => format!("waiting for {what}; {}", states.join(", ")),
        None => "waiting for a leader".to_owned(),
    }
}

/// The members as they would be declared.
fn members(cluster: &Value) -> Declared {
    let all = cluster["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    let declared = all.iter().filter_map(|member| {
        let role = if member["voter"] == true { "voter" } else { "learner" };
        let (client, peer) = (plain(&member["client_address"]), plain(&member["peer_address"]));
        Some((member["id"].as_u64()?, (client, peer, role)))
    });
    declared.collect()
}

fn describe(cluster: &Value) -> String {
    let mut rows = vec![["NODE", "ROLE", "CLIENTS", "PEERS", "STATE"].map(str::to_owned)];
    for member in cluster["members"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let cells = ["id", "role", "client_address", "peer_address", "state"];
        rows.push(cells.map(|name| plain(&member[name])));
    }
    let mut text = table(&rows);
    text += &format!("\nversion {} of the membership", plain(&cluster["membership_version"]));
    if !cluster["change"].is_null() {
        text += &format!("; a change is in progress: {}", progress(cluster));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_differ_in_numbers_only_are_told_from_others() {
        assert!(is_same_but_numbers("node 4: no answer for 1.7 s", "node 4: no answer for 12.1 s"));
        assert!(!is_same_but_numbers("node 4: no answer for 1.7 s", "node 4: up"));
    }

    #[test]
    fn a_change_in_progress_is_described_with_what_it_waits_for() {
        let member = |id: u64, role: &str, state: &str| {
            json!({"id": id, "role": role, "voter": role != "learner", "state": state,
                "client_address": format!("c:{id}"), "peer_address": format!("p:{id}")})
        };
        let mut cluster = json!({
            "leader": 0, "membership_version": 7, "change": null,
            "members": [member(0, "leader", "up"), member(3, "learner", "up, 9 entries behind")],
        });
        let expected = "\
NODE  ROLE     CLIENTS  PEERS  STATE
0     leader   c:0      p:0    up
3     learner  c:3      p:3    up, 9 entries behind

version 7 of the membership
";
        assert_eq!(describe(&cluster), expected);
        let entry = |id: u64, role| (id, (format!("c:{id}"), format!("p:{id}"), role));
        assert_eq!(members(&cluster), [entry(0, "voter"), entry(3, "learner")].into());
        assert_eq!(silent(&cluster), [""; 0]);
        let mut alone = cluster.clone();
        alone["members"][1]["state"] = "no answer for 42 s".into();
        assert_eq!(silent(&alone), ["node 3: no answer for 42 s"]);
        cluster["change"] = json!({"voters": [0, 3], "waits_for": "the new voters to catch up"});
        let expected = "waiting for the new voters to catch up; node 3: up, 9 entries behind";
        assert_eq!(progress(&cluster), expected);
        assert!(describe(&cluster).contains(expected));
    }
}
