//! `raft-kv get`: reads a value.

use super::client::{self, Client, ServerArgs};
use super::{exit, input};
use hyper::{Method, StatusCode};
use std::ffi::OsString;

#[derive(clap::Args)]
pub struct Args {
    /// The key
    key: OsString,
    #[command(flatten)]
    server: ServerArgs,
}

/// Reads the value and prints it byte for byte.
pub fn run(args: &Args) -> u8 {
    let request = client::on_key(Method::GET, &args.key);
    match Client::new(&args.server).and_then(|client| client.call(&request)) {
        Ok(response) if response.status.is_success() => match input::print_value(&response.body) {
            Ok(()) => exit::DONE,
            Err(error) => input::not_printed(&error),
        },
        Ok(response) if response.status == StatusCode::NOT_FOUND => {
            exit::complain(format_args!("no such key: {}", args.key.display()));
            exit::NO
        }
        Ok(response) => client::refused(&response),
        Err(error) => client::report(&error),
    }
}
