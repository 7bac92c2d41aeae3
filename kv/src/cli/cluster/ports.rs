//! The addresses of a local cluster, and the check that their ports are free.

use kv::lingering::{LINGERING, is_lingering};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

/// A node's peer port is its client port plus this.
const PEER_PORT_OFFSET: u16 = 1000;

/// How long to wait for a port, which a stopping node may still hold.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(3);

/// The addresses that one node listens on.
#[derive(Clone)]
pub struct Addresses {
    pub id: u16,
    pub client: SocketAddr,
    pub peer: SocketAddr,
}

/// Why the cluster cannot use its ports.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    #[error(
        "port {port} ({use_}) is in use: stop the program that listens there, \
         or choose another first port with --port"
    )]
    InUse { port: u16, use_: String },
    #[error(
        "port {port} ({use_}) is in use: {LINGERING}. Or choose another first port with --port"
    )]
    Lingering { port: u16, use_: String },
    #[error("port {port} ({use_}): {why}: choose another first port with --port")]
    Unusable { port: u16, use_: String, why: io::Error },
    #[error("with --port {port} the ports end above 65535: choose a lower one")]
    TooHigh { port: u16 },
}

/// The addresses of `nodes` nodes. Node i has the client port `port + i`.
pub fn addresses(port: u16, nodes: u16) -> Result<Vec<Addresses>, PortError> {
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    (0..nodes)
        .map(|id| {
            let client = port.checked_add(id).ok_or(PortError::TooHigh { port })?;
            let peer = client.checked_add(PEER_PORT_OFFSET).ok_or(PortError::TooHigh { port })?;
            Ok(Addresses { id, client: at(client), peer: at(peer) })
        })
        .collect()
}

/// Waits briefly until every port is free: the nodes of a killed supervisor take a moment to stop.
/// A node would detect a used port itself, but here it is reported before any node is started.
pub async fn check_free(addresses: &[Addresses]) -> Result<(), PortError> {
    let deadline = Instant::now() + RELEASE_TIMEOUT;
    for node in addresses {
        let uses = [
            (node.client, format!("node {}, for clients", node.id)),
            (node.peer, format!("node {}, for its peers", node.id)),
        ];
        for (address, use_) in uses {
            let port = address.port();
            while let Err(why) = TcpListener::bind(address) {
                if why.kind() != io::ErrorKind::AddrInUse {
                    return Err(PortError::Unusable { port, use_, why });
                }
                if Instant::now() >= deadline {
                    return Err(match is_lingering(address).await {
                        true => PortError::Lingering { port, use_ },
                        false => PortError::InUse { port, use_ },
                    });
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_talk_a_thousand_ports_higher() {
        let nodes = addresses(8080, 3).unwrap_or_default();
        let ports: Vec<_> = nodes.iter().map(|n| (n.client.port(), n.peer.port())).collect();
        assert_eq!(ports, [(8080, 9080), (8081, 9081), (8082, 9082)]);
    }

    #[test]
    fn ports_that_do_not_exist_are_refused() {
        assert!(matches!(addresses(64_534, 3), Err(PortError::TooHigh { port: 64_534 })));
        assert!(matches!(addresses(65_535, 1), Err(PortError::TooHigh { .. })));
    }
}
