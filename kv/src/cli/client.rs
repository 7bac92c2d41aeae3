//! The client of the commands: [`kv::client`], on connections and a clock of the real world.

use super::http::{self, Sockets};
use super::{exit, input};
use driver::TokioClock;
use hyper::Method;
pub use kv::client::CallError;
use kv::client::{Request, Response};
use std::sync::Arc;
use std::time::Duration;

/// Whom to talk to; part of every client command.
#[derive(clap::Args, Clone)]
pub struct ServerArgs {
    /// A node to talk to; given several times or with commas, the next one is tried when one is down
    #[arg(
        long = "server",
        short = 's',
        env = "RAFT_KV_SERVER",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8080",
        value_parser = http::address_of
    )]
    pub servers: Vec<String>,

    /// Give up after so many seconds
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    timeout: f64,
}

/// A positive number of seconds that a `Duration` can hold.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    if seconds > 0.0 && seconds <= 86_400.0 {
        Ok(seconds)
    } else {
        Err("expected more than 0 and at most 86400 seconds".to_owned())
    }
}

/// Says why there is no answer, and returns the exit code that says the same.
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
    /// A client for the servers asked for.
    pub fn new(args: &ServerArgs) -> Result<Self, CallError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| CallError::NotDone(error.to_string()))?;
        let timeout = Duration::from_secs_f64(args.timeout);
        let clock = Arc::new(TokioClock::new());
        let client = kv::client::Client::new(args.servers.clone(), timeout, Sockets, clock);
        Ok(Client { client, runtime })
    }

    /// See [`kv::client::Client::call`].
    pub fn call(&self, request: &Request) -> Result<Response, CallError> {
        self.runtime.block_on(self.client.call(request))
    }
}

/// An answer that a command did not expect: refused, and why.
pub fn refused(response: &Response) -> u8 {
    report(&CallError::NotDone(response.explanation()))
}

/// The request for a key.
pub fn on_key(method: Method, key: &std::ffi::OsStr) -> Request {
    Request::new(method, input::path_of(key))
}
