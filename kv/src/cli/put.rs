//! `raft-kv put`: writes a value.

use super::client::{self, Client, ServerArgs};
use super::{exit, input};
use hyper::Method;
use std::ffi::OsString;

#[derive(clap::Args)]
pub struct Args {
    /// The key
    key: OsString,
    /// The value; `-` reads it from standard input, byte for byte
    value: OsString,
    #[command(flatten)]
    server: ServerArgs,
}

/// Writes the value. Prints nothing on success.
pub fn run(args: &Args) -> u8 {
    let value = match input::value_of(&args.value) {
        Ok(value) => value,
        Err(error) => {
            exit::complain(format_args!("cannot read the value: {error}"));
            return exit::NOT_DONE;
        }
    };
    let request = client::on_key(Method::PUT, &args.key).body(value);
    match Client::new(&args.server).and_then(|client| client.write(&request)) {
        Ok(response) if client::has_version(&response) => exit::DONE,
        Ok(response) => client::refused(&response),
        Err(error) => client::report(&error),
    }
}
