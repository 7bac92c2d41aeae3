//! `raft-kv delete`: removes a key.

use super::client::{self, Client, ServerArgs};
use super::exit;
use hyper::{Method, StatusCode};
use std::ffi::OsString;

#[derive(clap::Args)]
pub struct Args {
    /// The key
    key: OsString,
    #[command(flatten)]
    server: ServerArgs,
}

/// Deletes the key. Prints nothing on success.
pub fn run(args: &Args) -> u8 {
    let request = client::on_key(Method::DELETE, &args.key);
    match Client::new(&args.server).and_then(|client| client.write(&request)) {
        Ok(response) if response.status.is_success() => exit::DONE,
        Ok(response) if response.status == StatusCode::NOT_FOUND => {
            exit::complain(format_args!("no such key: {}", args.key.display()));
            exit::NO
        }
        Ok(response) => client::refused(&response),
        Err(error) => client::report(&error),
    }
}
