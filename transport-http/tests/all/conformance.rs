//! The HTTP transport keeps the contract of `driver::Transport`, on sockets of this machine.

use driver::TokioClock;
use driver::testing::{Connected, Peer, transport};
use std::sync::Arc;
use storage::ClusterId;
use transport_http::{HttpTransport, PeerServer, TransportConfig};

async fn connect(peers: Vec<Peer>) -> Vec<Connected<HttpTransport>> {
    let mut connected = Vec::new();
    for Peer { node, incarnation, inbox, .. } in peers {
        let server = PeerServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let config = TransportConfig::new(ClusterId(5), node, incarnation);
        let transport = Arc::new(HttpTransport::new(config, inbox));
        server.open(&transport);
        let address = server.local_addr().to_string();
        connected.push(Connected { transport, address, keep: Box::new(server) });
    }
    connected
}

#[tokio::test(flavor = "multi_thread")]
async fn the_transport_conforms() {
    transport(&TokioClock::new(), connect).await;
}
