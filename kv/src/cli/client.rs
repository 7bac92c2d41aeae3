//! The client of the commands: [`kv::client`] with TCP connections and the system clock.

use super::http::{self, Sockets};
use super::{duration, exit, input};
use driver::TokioClock;
use hyper::Method;
use hyper::header::ETAG;
pub use kv::client::CallError;
use kv::client::{Request, Response};
use std::sync::Arc;
use std::time::Duration;

/// The options that all client commands share.
#[derive(clap::Args, Clone)]
pub struct ServerArgs {
    /// The address of a node. May be given several times, or separated by commas: if one is down,
    /// the next is tried
    #[arg(
        long = "server",
        short = 's',
        env = "RAFT_KV_SERVER",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8080",
        value_parser = http::address_of
    )]
    pub servers: Vec<String>,

    /// Give up after this time, such as 10s, 500ms or 2m; a bare number is seconds
    #[arg(long, default_value = "10s", value_parser = duration::parse)]
    timeout: Duration,
}

/// Prints the error, and returns its exit code.
pub fn report(error: &CallError) -> u8 {
    exit::complain(error);
    match error {
        CallError::NotDone(_) => exit::NOT_DONE,
        CallError::Unknown(_) => exit::UNKNOWN,
    }
}

/// A client of one cluster.
pub struct Client {
    client: kv::client::Client<Sockets>,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// A client for the given servers.
    pub fn new(args: &ServerArgs) -> Result<Self, CallError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| CallError::NotDone(exit::with_limit(&error)))?;
        let clock = Arc::new(TokioClock::new());
        let client = kv::client::Client::new(args.servers.clone(), args.timeout, Sockets, clock);
        Ok(Client { client, runtime })
    }

    /// Runs [`kv::client::Client::call`] and waits for its result.
    pub fn call(&self, request: &Request) -> Result<Response, CallError> {
        self.runtime.block_on(self.client.call(request))
    }
}

/// Reports an answer without success, and returns the exit code.
pub fn refused(response: &Response) -> u8 {
    report(&CallError::NotDone(response.explanation()))
}

/// Whether a write was done: the answer is a success with a version as `ETag`.
pub fn has_version(response: &Response) -> bool {
    let tag = response.headers.get(ETAG).and_then(|tag| tag.to_str().ok());
    let digits = tag.and_then(|tag| tag.strip_prefix('"')?.strip_suffix('"'));
    response.status.is_success() && digits.is_some_and(|digits| digits.parse::<u64>().is_ok())
}

/// The request for a key.
pub fn on_key(method: Method, key: &std::ffi::OsStr) -> Request {
    Request::new(method, input::path_of(key))
}
