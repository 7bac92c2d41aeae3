//! Whether a port is in use although nobody listens there.
//!
//! An outgoing connection of any program may have the port as its own, and for a minute after its
//! end the port stays in TIME-WAIT. "Stop what uses the port" is no advice then.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use transport_http::net::not_itself;

/// A listener accepts a connection within this time.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// For an operator: why nobody can listen on such a port, and what to do.
pub const LINGERING: &str = "nothing listens there, but a connection has this port or had it within \
     the last 60 s (TIME-WAIT; see ss -tan): wait for a minute. A port below \
     net.ipv4.ip_local_port_range (32768 by default) is never the port of an outgoing connection";

/// Whether a port that is in use refuses connections, so that nobody listens there.
pub async fn is_lingering(address: SocketAddr) -> bool {
    // Then another address of the machine may be listened on.
    if address.ip().is_unspecified() {
        return false;
    }
    let connected = async { not_itself(TcpStream::connect(address).await?) };
    match timeout(CONNECT_TIMEOUT, connected).await {
        Ok(Err(error)) => error.kind() == io::ErrorKind::ConnectionRefused,
        _ => false,
    }
}
