//! The client of the commands: [`kv::client`] with TCP connections and the system clock.

use super::http::{self, Sockets};
use super::{duration, exit, input};
use driver::TokioClock;
use futures_util::future::join_all;
use hyper::Method;
use hyper::header::ETAG;
pub use kv::client::CallError;
use kv::client::{Request, Response};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// The options that all client commands share.
#[derive(clap::Args, Clone)]
pub struct ServerArgs {
    /// The address of a node. May be given several times, or separated by commas: if one is down,
    /// hangs or is no node, the next is tried
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
        Ok(Client { client: client.dividing_time(), runtime })
    }

    /// Runs [`kv::client::Client::call`] and waits for its result.
    pub fn call(&self, request: &Request) -> Result<Response, CallError> {
        self.runtime.block_on(self.client.call(request))
    }

    /// Runs [`kv::client::Client::write`] and waits for its result.
    pub fn write(&self, request: &Request) -> Result<Response, CallError> {
        self.runtime.block_on(self.client.write(request))
    }

    /// The cluster as its leader sees it, or else as some node does: a node that is cut off answers
    /// too, and knows no leader.
    pub fn view(&self) -> Result<Response, CallError> {
        let request = Request::new(Method::GET, "/v1/cluster");
        self.runtime.block_on(self.client.call_for(&request, has_leader))
    }

    /// If a view of the cluster has no leader, asks all members, and writes into it which do not
    /// answer: a node without a leader knows nothing of the others. Returns a text for people, or
    /// `None` if there is a leader.
    pub fn add_silence(&self, cluster: &mut Value) -> Option<String> {
        if !cluster["leader"].is_null() {
            return None;
        }
        let (node, id) = (cluster["node"].clone(), cluster["cluster_id"].clone());
        let members = cluster["members"].as_array_mut()?;
        let ask = async |member: &mut Value| {
            let address = member["client_address"].as_str().unwrap_or_default().to_owned();
            let request = Request::new(Method::GET, "/v1/cluster?local=true");
            let answer = http::exchange(&address, &request, MEMBER_TIMEOUT).await;
            let view = answer.ok().filter(|answer| answer.headers.contains_key(kv::client::NODE));
            // Another cluster's node may have the address by now.
            let view = view.map(|answer| answer.json()).filter(|view| view["cluster_id"] == id);
            let Some(view) = view else {
                member["state"] = "no answer".into();
                return Some(format!("node {} ({address})", member["id"]));
            };
            let own = view["members"].as_array().into_iter().flatten();
            if let Some(own) = own.into_iter().find(|own| own["id"] == member["id"]) {
                member["state"] = own["state"].clone();
            }
            None
        };
        let others = members.iter_mut().filter(|member| member["id"] != node);
        let silent = self.runtime.block_on(join_all(others.map(ask)));
        let silent: Vec<String> = silent.into_iter().flatten().collect();
        Some(match silent.is_empty() {
            true => "there is no leader, although all members answer; try again".to_owned(),
            false => format!("there is no leader; no answer from {}", silent.join(", ")),
        })
    }
}

/// How long a member may take to answer whether it is there.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether a view of the cluster names a leader.
pub fn has_leader(response: &Response) -> bool {
    response.status.is_success() && !response.json()["leader"].is_null()
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
