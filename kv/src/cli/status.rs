//! `raft-kv status`: the members of the cluster and their states.

use super::client::{self, CallError, Client, ServerArgs};
use super::table::{plain, table};
use super::{exit, input};
use serde_json::Value;

#[derive(clap::Args)]
pub struct Args {
    /// Print the answer of the node, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Prints a table of the members. The exit code is [`exit::NOT_DONE`] if there is no leader.
pub fn run(args: &Args) -> u8 {
    let client = match Client::new(&args.server) {
        Ok(client) => client,
        Err(error) => return client::report(&error),
    };
    match client.view() {
        Ok(response) if response.status.is_success() => {
            let mut cluster = response.json();
            let silent = client.add_silence(&mut cluster);
            let text = if args.json { cluster.to_string() } else { describe(&cluster) };
            if let Err(error) = input::print_line(text.trim_end()) {
                return input::not_printed(&error);
            }
            match silent {
                Some(why) => client::report(&CallError::NotDone(why)),
                None => exit::DONE,
            }
        }
        Ok(response) => client::refused(&response),
        Err(error) => client::report(&error),
    }
}

/// The table of members, and a summary line.
fn describe(cluster: &Value) -> String {
    let mut rows = vec![["NODE", "ROLE", "CLIENTS", "PEERS", "LOG", "STATE"].map(str::to_owned)];
    let members = cluster["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    for member in members {
        rows.push([
            plain(&member["id"]),
            plain(&member["role"]),
            plain(&member["client_address"]),
            plain(&member["peer_address"]),
            plain(&member["matched_index"]),
            plain(&member["state"]),
        ]);
    }
    let leader = match &cluster["leader"] {
        Value::Null => "no leader".to_owned(),
        leader => format!("node {leader} leads"),
    };
    format!(
        "{}\n{leader} in term {}; {} entries committed; {} keys; as node {} sees it\n",
        table(&rows),
        plain(&cluster["term"]),
        plain(&cluster["commit_index"]),
        plain(&cluster["keys"]),
        plain(&cluster["node"]),
    )
}

#[cfg(test)]
mod tests {
    use super::describe;
    use serde_json::json;

    #[test]
    fn the_table_has_a_line_for_each_member_and_says_who_leads() {
        let text = describe(&json!({
            "node": 1, "leader": 0, "term": 3, "commit_index": 12, "keys": 5,
            "members": [
                {"id": 0, "role": "leader", "client_address": "127.0.0.1:8080",
                 "peer_address": "127.0.0.1:9080", "matched_index": 12, "state": "up"},
                {"id": 1, "role": "voter", "client_address": "127.0.0.1:8081",
                 "peer_address": "127.0.0.1:9081", "matched_index": null, "state": "up"},
            ],
        }));
        let expected = "\
NODE  ROLE    CLIENTS         PEERS           LOG  STATE
0     leader  127.0.0.1:8080  127.0.0.1:9080  12   up
1     voter   127.0.0.1:8081  127.0.0.1:9081       up

node 0 leads in term 3; 12 entries committed; 5 keys; as node 1 sees it
";
        assert_eq!(text, expected);
    }
}
