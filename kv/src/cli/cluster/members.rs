//! Finds out which cluster the data of the nodes belongs to, when `cluster.toml` is lost.
//!
//! Each node knows the members of its cluster from its log. A node that was started with the ports
//! of another cluster serves this question all the same, but never finds its peers.

use super::ports::{self, Addresses};
use crate::cli::http::{self, Request};
use hyper::Method;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;

/// The pause between two rounds of requests.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// The timeout of one request.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// Waits until a node knows its members, and compares them with those that the cluster is started
/// with. An error is what the cluster was made with, as flags.
pub async fn compare(nodes: &[Addresses]) -> Result<(), String> {
    let request = Request::new(Method::GET, "/v1/cluster?local=true");
    loop {
        for node in nodes {
            let answer = http::exchange(&node.client.to_string(), &request, ANSWER_TIMEOUT).await;
            let Ok(answer) = answer else { continue };
            if let Some(members) = client_addresses(&answer.json()) {
                return match is_the_same(&members, nodes) {
                    true => Ok(()),
                    false => Err(flags_of(&members)),
                };
            }
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// The ids and client addresses of all members, ordered by id. `None` if the node has none yet.
fn client_addresses(cluster: &Value) -> Option<Vec<(u64, String)>> {
    let members = cluster["members"].as_array().filter(|members| !members.is_empty())?;
    let mut addresses = Vec::new();
    for member in members {
        let address = member["client_address"].as_str()?.to_owned();
        addresses.push((member["id"].as_u64()?, address));
    }
    addresses.sort();
    Some(addresses)
}

fn is_the_same(members: &[(u64, String)], nodes: &[Addresses]) -> bool {
    let expected = nodes.iter().map(|node| (u64::from(node.id), node.client.to_string()));
    members.iter().cloned().eq(expected)
}

/// The flags of the cluster with these members, or their addresses if no flags make such a cluster.
fn flags_of(members: &[(u64, String)]) -> String {
    let first = members.first().and_then(|(_, address)| address.parse::<SocketAddr>().ok());
    let nodes = u16::try_from(members.len()).ok();
    if let (Some(first), Some(nodes)) = (first, nodes)
        && let Ok(made) = ports::addresses(first.port(), nodes)
        && is_the_same(members, &made)
    {
        return format!("--port {} --nodes {nodes}", first.port());
    }
    let list: Vec<_> = members.iter().map(|(id, address)| format!("{id}={address}")).collect();
    format!("other members ({}), by `raft-kv serve`", list.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_flags_of_a_cluster_follow_from_its_members() {
        let member = |id, address| json!({"id": id, "client_address": address});
        let cluster = json!({"members": [
            member(1, "127.0.0.1:7001"), member(0, "127.0.0.1:7000"), member(2, "127.0.0.1:7002"),
        ]});
        let members = client_addresses(&cluster).unwrap();
        assert_eq!(flags_of(&members), "--port 7000 --nodes 3");
        assert!(is_the_same(&members, &ports::addresses(7000, 3).unwrap_or_default()));
        assert!(!is_the_same(&members, &ports::addresses(7000, 1).unwrap_or_default()));
        let cluster = json!({"members": [member(4, "store.example:80")]});
        assert!(flags_of(&client_addresses(&cluster).unwrap()).contains("4=store.example:80"));
        assert_eq!(client_addresses(&json!({"members": []})), None);
    }
}
