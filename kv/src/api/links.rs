//! Fault injection for tests: cuts and restores the links of this node.

use super::App;
use super::compat::read_json;
use super::routes::{json, refusal};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use hyper::StatusCode;
use raft::NodeId;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;

/// Cuts and restores links. No method blocks.
pub trait Links: Send + Sync + 'static {
    /// Restores the link to a peer. Has no effect if the link is not cut.
    fn connect(&self, peer: NodeId);
    /// Cuts the link to a peer, both ways, until it is restored.
    fn disconnect(&self, peer: NodeId);
}

/// The body of `connect_peer` and `disconnect_peer`.
#[derive(Deserialize)]
struct Named {
    peer_id: u64,
    /// Accepted for compatibility and ignored: the address of the peer is in the membership.
    #[serde(default, rename = "address")]
    _address: Option<String>,
}

/// `POST /connect_peer`: restores the link to one peer.
pub async fn connect_peer(State(app): State<Arc<App>>, body: Body) -> Response {
    on_peer(&app, body, true).await.unwrap_or_else(|refusal| refusal)
}

/// `POST /disconnect_peer`: cuts the link to one peer.
pub async fn disconnect_peer(State(app): State<Arc<App>>, body: Body) -> Response {
    on_peer(&app, body, false).await.unwrap_or_else(|refusal| refusal)
}

/// `POST /disconnect_all`: cuts the links to all peers.
pub async fn disconnect_all(State(app): State<Arc<App>>) -> Response {
    let links = match links(&app) {
        Ok(links) => links,
        Err(refusal) => return refusal,
    };
    let status = app.handle.status();
    let peers = status.raft.membership.members.keys().filter(|peer| **peer != app.id);
    peers.for_each(|peer| links.disconnect(*peer));
    json(StatusCode::OK, json!({ "connected": false }).to_string())
}

async fn on_peer(app: &App, body: Body, connect: bool) -> Result<Response, Response> {
    let links = links(app)?;
    let named: Named = read_json(app, body).await?;
    let peer = NodeId(named.peer_id);
    if !app.handle.status().raft.membership.members.contains_key(&peer) {
        return Err(refusal(StatusCode::BAD_REQUEST, format!("node {peer} is no member")));
    }
    // A node is always connected to itself.
    if peer != app.id {
        if connect {
            links.connect(peer);
        } else {
            links.disconnect(peer);
        }
    }
    let connected = connect || peer == app.id;
    let body = json!({ "peer_id": peer.0, "connected": connected });
    Ok(json(StatusCode::OK, body.to_string()))
}

#[allow(clippy::result_large_err, reason = "a refusal is a ready answer, on the rare path")]
fn links(app: &App) -> Result<&dyn super::Links, Response> {
    app.links.as_deref().ok_or_else(|| {
        refusal(
            StatusCode::FORBIDDEN,
            "fault injection is off on this node; start it with --fault-injection",
        )
    })
}
