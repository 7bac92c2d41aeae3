//! `raft-kv transfer`: makes another node the leader.

use super::client::{self, Client, ServerArgs};
use super::{exit, input};
use hyper::Method;
use kv::client::Request;

#[derive(clap::Args)]
pub struct Args {
    /// The id of the node that is to lead. Without it: the follower with the highest
    /// priority of those that keep up
    #[arg(long)]
    to: Option<u64>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Hands leadership over, and prints the new leader.
pub fn run(args: &Args) -> u8 {
    let body = serde_json::json!({ "to": args.to }).to_string();
    let request = Request::new(Method::POST, "/v1/cluster/transfer").body(body);
    match Client::new(&args.server).and_then(|client| client.call(&request)) {
        Ok(response) if response.status.is_success() => {
            let answer = response.json();
            let text = format!("node {} leads in term {}", answer["leader"], answer["term"]);
            match input::print_line(&text) {
                Ok(()) => exit::DONE,
                Err(error) => input::not_printed(&error),
            }
        }
        Ok(response) => client::refused(&response),
        Err(error) => client::report(&error),
    }
}
