//! Fuzzes a real node over a socket: a client sends arbitrary bytes. The node responds or closes
//! within a bounded time, and continues to serve others.

use crate::Input;
use kv::serve::{Peer, Running, ServeConfig, run as serve};
use raft::NodeId;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;
use tokio::runtime::Runtime;

/// A node that has not closed a connection after this long counts as hung.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

struct Served {
    address: SocketAddr,
    _runtime: Runtime,
    _running: Running,
    _directory: tempfile::TempDir,
}

fn node() -> SocketAddr {
    static NODE: OnceLock<Served> = OnceLock::new();
    NODE.get_or_init(start).address
}

fn start() -> Served {
    let runtime = Runtime::new().expect("a runtime starts");
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    // Ports that no outgoing connection gets by chance.
    let ports = std::iter::repeat_with(|| 10_000 + rand::random::<u16>() % 20_000);
    let mut listeners =
        ports.filter_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok());
    let held = [0, 1].map(|_| listeners.next().expect("a port is free"));
    let [client, peer] = held.map(|held| held.local_addr().expect("it has an address"));
    let own =
        Peer { id: NodeId(0), client_address: client.to_string(), peer_address: peer.to_string() };
    let path = directory.path().join("data");
    let mut config = ServeConfig::new(NodeId(0), client, peer, vec![own], path);
    config.bootstrap = true;
    config.campaign_at_start = true;
    let running = runtime.block_on(serve(config)).expect("the node starts");
    let address = running.client_addr();
    Served { address, _runtime: runtime, _running: running, _directory: directory }
}

/// The first byte of `data` sets the size of the pieces in which the rest is sent.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let piece = 16 * (1 + usize::from(input.byte()));
    let address = node();
    let mut stream = TcpStream::connect(address).expect("the node listens");
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).expect("a socket has timeouts");
    stream.set_write_timeout(Some(ANSWER_TIMEOUT)).expect("a socket has timeouts");
    for bytes in input.bytes(data.len()).chunks(piece) {
        // The node may have closed the connection.
        if stream.write_all(bytes).is_err() {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) => assert!(
            !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
            "the node neither answers nor closes: {error}"
        ),
    }
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1."),
        "no answer of HTTP: {:?}",
        String::from_utf8_lossy(&answer[..answer.len().min(80)])
    );
    lives(address);
}

fn lives(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).expect("the node listens");
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).expect("a socket has timeouts");
    let ask = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(ask).expect("the node listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the node answers");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
