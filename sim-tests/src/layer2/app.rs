//! A node of the store, assembled as in `kv::serve`, with the simulation in place of threads,
//! sockets and files.

use super::store::Store;
use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use hyper::{Method, Request, Response, StatusCode};
use kv::api::{self, Api, Hosts};
use kv::history::Retention;
use kv::machine::Machine;
use simulator::Plan;
use simulator::checks::Violation;
use simulator::timeline::{Ended, shown};
use std::convert::Infallible;
use std::sync::Arc;
use transport_sim::{App, Boot, Cluster, Service, Started, Task, now_us, sleep_us};

/// One request in this many arrives in two pieces.
const SPLIT_ONE_IN: u64 = 5;
/// The pause between two pieces of a request.
const PAUSE_US: u64 = 3_000;

impl App for Store {
    type Machine = Machine;
    type Request = Request<Bytes>;
    type Response = Response<Bytes>;

    fn boot(&self) -> (Machine, Boot<Self>) {
        let machine = Machine::new(Retention {
            commands_max: self.limits.history_commands_max,
            bytes_max: self.limits.history_bytes_max,
            deleted_max: self.deleted_max,
            ..Retention::default()
        });
        let (figures, answers) = (machine.figures(), machine.answers());
        let (limits, forward) = (self.limits.clone(), self.forward);
        let boot = move |node: Started<Store>| {
            let (status, id, cluster) = (node.handle.clone(), node.id, node.cluster);
            let follows = move || status.status().raft.leader.is_some_and(|leader| leader != id);
            let forwarded = move || cluster.mark("a write was forwarded");
            let api = Api::new(api::Parts {
                pressure: Arc::default(),
                leaving: Arc::default(),
                handle: node.handle,
                clock: node.clock,
                figures,
                answers,
                id: node.id,
                cluster: None,
                peer_address: String::new(),
                hosts: Hosts::default(),
                limits,
                forward,
                leader: None,
                admission: None,
                offload: None,
                links: None,
                peers: None,
            });
            serve(api, follows, forwarded)
        };
        (machine, Box::new(boot))
    }

    fn asks(&self, request: &Request<Bytes>) -> (bool, String) {
        let (method, path) = (request.method(), request.uri());
        let body = match request.body().is_empty() {
            true => String::new(),
            false => format!(" {}", shown(request.body())),
        };
        (is_read(request), format!("{method} {path}{body}"))
    }

    fn answers(&self, response: &Response<Bytes>) -> (Ended, String) {
        let status = response.status();
        let outcome = match status.as_u16() {
            200..=299 | 404 => Ended::Done,
            408 | 504 => Ended::Unknown,
            _ => Ended::NotDone,
        };
        (outcome, format!("{} {}", status.as_u16(), shown(response.body())))
    }

    fn client(self: Arc<Self>, cluster: Cluster<Self>, number: u64) -> Task<()> {
        Box::pin(super::clients::run(self, cluster, number))
    }

    fn requests_at_once(&self) -> usize {
        super::compat::BURST
    }

    fn command_bytes_max(&self, _plan: &Plan) -> usize {
        self.values.bytes_max()
    }

    fn verdict(self: Arc<Self>, cluster: Cluster<Self>) -> Task<Result<(), Violation>> {
        Box::pin(async move {
            super::last::words(&self, &cluster).await?;
            super::served::every_node(&self, &cluster).await?;
            self.history().verdict()
        })
    }
}

/// Whether the request changes nothing.
fn is_read(request: &Request<Bytes>) -> bool {
    request.method() == Method::GET || matches!(request.uri().path(), "/get" | "/wait_commit")
}

/// The API as a service. It collects whole answers. Some requests arrive in two pieces with a
/// pause between them, so that they may be dropped there too. If a node that `follows` answers a
/// write as done, it calls `forwarded`.
fn serve(
    api: Api,
    follows: impl Fn() -> bool + Send + Sync + 'static,
    forwarded: impl Fn() + Send + Sync + 'static,
) -> Service<Request<Bytes>, Response<Bytes>> {
    let (follows, forwarded) = (Arc::new(follows), Arc::new(forwarded));
    Arc::new(move |request: Request<Bytes>| {
        let api = api.clone();
        let is_v1 = request.uri().path().starts_with("/v1/");
        let forwarded = (is_v1 && !is_read(&request) && follows()).then(|| forwarded.clone());
        Box::pin(async move {
            let (parts, bytes) = request.into_parts();
            let answer = if bytes.len() > 1 && now_us().is_multiple_of(SPLIT_ONE_IN) {
                let (mut feed, body) = Channel::<Bytes, Infallible>::new(1);
                let cut = now_us() as usize % bytes.len();
                let feed = async move {
                    // A handler that answers before it has read everything closes the body.
                    let _ = feed.send_data(bytes.slice(..cut)).await;
                    sleep_us(PAUSE_US).await;
                    let _ = feed.send_data(bytes.slice(cut..)).await;
                };
                let answer = api.answer(Request::from_parts(parts, Body::new(body)), None);
                tokio::join!(biased; answer, feed).0
            } else {
                api.answer(Request::from_parts(parts, Body::from(bytes)), None).await
            };
            let (parts, body) = answer.into_parts();
            if let (true, Some(forwarded)) = (parts.status.is_success(), forwarded) {
                forwarded();
            }
            match body.collect().await {
                Ok(body) => Response::from_parts(parts, body.to_bytes()),
                Err(_) => {
                    let mut broken = Response::new(Bytes::new());
                    *broken.status_mut() = StatusCode::BAD_GATEWAY;
                    broken
                }
            }
        })
    })
}
