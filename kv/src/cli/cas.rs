//! `raft-kv cas`: writes a value if the key has the expected value.
//!
//! Works through any node, and with any bytes. The command reads the value with its version,
//! compares it, and writes on condition that the version is unchanged. If the version has changed,
//! it starts again. So the result is that of one atomic operation.

use super::client::{self, CallError, Client, ServerArgs};
use super::{exit, input};
use hyper::header::{ETAG, IF_MATCH};
use hyper::{Method, StatusCode};
use std::ffi::OsString;
use std::io;

/// The most rounds of read, compare and write before the command gives up.
const ROUNDS_MAX: usize = 100;

#[derive(clap::Args)]
pub struct Args {
    /// The key
    key: OsString,
    /// The value that the key must have
    compare: OsString,
    /// The value to write then; `-` reads it from standard input, byte for byte
    value: OsString,
    #[command(flatten)]
    server: ServerArgs,
}

/// Prints nothing if the value was written. If the comparison fails, prints the current value.
pub fn run(args: &Args) -> u8 {
    let values = input::value_of(&args.value).and_then(|value| {
        // Only one of the two can come from standard input.
        if args.compare == *"-" && args.value == *"-" {
            return Err(io::Error::other("only one value can be read from standard input"));
        }
        Ok((input::value_of(&args.compare)?, value))
    });
    let (compare, value) = match values {
        Ok(values) => values,
        Err(error) => {
            exit::complain(format_args!("cannot read the value: {error}"));
            return exit::NOT_DONE;
        }
    };
    match Client::new(&args.server).and_then(|client| swap(&client, args, &compare, &value)) {
        Ok(code) => code,
        Err(error) => client::report(&error),
    }
}

fn swap(client: &Client, args: &Args, compare: &[u8], value: &[u8]) -> Result<u8, CallError> {
    for _ in 0..ROUNDS_MAX {
        let read = client.call(&client::on_key(Method::GET, &args.key))?;
        if read.status == StatusCode::NOT_FOUND {
            exit::complain(format_args!("no such key: {}", args.key.display()));
            return Ok(exit::NO);
        }
        if !read.status.is_success() {
            return Ok(client::refused(&read));
        }
        if read.body != compare {
            exit::complain("the key has another value:");
            return Ok(match input::print_value(&read.body) {
                Ok(()) => exit::NO,
                Err(error) => input::not_printed(&error),
            });
        }
        let Some(version) = read.headers.get(ETAG) else {
            return Err(CallError::NotDone("the node's answer has no version".into()));
        };
        let mut write = client::on_key(Method::PUT, &args.key).body(value.to_vec());
        write.headers.push((IF_MATCH, version.clone()));
        let written = client.write(&write)?;
        match written.status {
            StatusCode::PRECONDITION_FAILED => continue,
            _ if client::has_version(&written) => return Ok(exit::DONE),
            _ => return Ok(client::refused(&written)),
        }
    }
    Err(CallError::NotDone(format!("the key changed {ROUNDS_MAX} times in between: try again")))
}
