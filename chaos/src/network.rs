//! The links between the peers: a proxy in front of each node's peer port.
//!
//! The membership contains the addresses of the proxies, so all founders agree on it. A proxy finds
//! the node that dialled it by the owner of the socket (`/proc`), so it does not depend on the
//! protocol. Each direction of a connection is a link of its own: bytes from node a to node b
//! follow the rule for (a, b), whichever of the two has dialled.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::Instant;

/// How a link treats the bytes on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Holds bytes until the rule changes; connections stay open. A partition or a half-open link.
    Hold,
    /// Closes connections, new ones included.
    Close,
    /// Delays each part by this.
    Delay(Duration),
    /// Passes at most this many bytes per second.
    BytesPerSecond(u64),
    /// Flips about one bit in this many bytes.
    FlipEvery(u64),
}

/// The most bytes that a proxy reads at once.
const PART_BYTES: usize = 16 << 10;
/// The most parts that a link buffers. Beyond that the sender waits.
const PARTS_MAX: usize = 64;
/// How often a held link checks its rule.
const LOOK_EVERY: Duration = Duration::from_millis(10);

#[derive(Default)]
struct State {
    rules: BTreeMap<(u64, u64), Rule>,
    pids: BTreeMap<u64, u32>,
    flips: u64,
}

/// All links. Clones share them.
#[derive(Clone, Default)]
pub struct Network(Arc<Mutex<State>>, Arc<Sockets>);

impl Network {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets the rule of one direction.
    pub fn set(&self, from: u64, to: u64, rule: Rule) {
        self.with(|state| state.rules.insert((from, to), rule));
    }

    /// Removes all rules: all links pass everything on.
    pub fn heal(&self) {
        self.with(|state| state.rules.clear());
    }

    /// Records the process of a node.
    pub fn runs(&self, node: u64, pid: u32) {
        self.with(|state| state.pids.insert(node, pid));
    }

    /// Bits flipped so far.
    pub fn flips(&self) -> u64 {
        self.with(|state| state.flips)
    }

    fn rule(&self, link: (u64, u64)) -> Option<Rule> {
        self.with(|state| state.rules.get(&link).copied())
    }

    /// Listens in front of node `to`, whose peer port is `target`. Returns the address of the
    /// proxy.
    pub fn proxy(&self, handle: &Handle, to: u64, target: SocketAddr) -> SocketAddr {
        let network = self.clone();
        let bound = handle.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let listener = bound.expect("127.0.0.1 has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        handle.spawn(async move {
            // The task ends with the runtime of the round, like all tasks here.
            loop {
                let Ok((stream, dialler)) = listener.accept().await else { continue };
                tokio::spawn(network.clone().join(stream, dialler, to, target));
            }
        });
        address
    }

    async fn join(self, near: TcpStream, dialler: SocketAddr, to: u64, target: SocketAddr) {
        // A dialler that has ended already needs no connection.
        let Some(from) = self.owner(dialler.port()).await else { return };
        if self.rule((from, to)) == Some(Rule::Close) {
            return;
        }
        let Ok(far) = TcpStream::connect(target).await else { return };
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let (near_in, near_out) = near.into_split();
        let (far_in, far_out) = far.into_split();
        self.clone().pump(near_in, far_out, (from, to));
        self.pump(far_in, near_out, (to, from));
    }

    fn pump(self, from: OwnedReadHalf, to: OwnedWriteHalf, link: (u64, u64)) {
        let (sender, receiver) = channel(PARTS_MAX);
        tokio::spawn(self.clone().read(from, sender, link));
        tokio::spawn(self.write(receiver, to, link));
    }

    async fn read(
        self,
        mut from: OwnedReadHalf,
        parts: Sender<(Instant, Vec<u8>)>,
        link: (u64, u64),
    ) {
        let mut since_flip = 0;
        loop {
            let mut part = vec![0; PART_BYTES];
            let read = match tokio::time::timeout(LOOK_EVERY * 5, from.read(&mut part)).await {
                Err(_) if self.rule(link) == Some(Rule::Close) || parts.is_closed() => return,
                Err(_) => continue,
                Ok(Ok(read)) if read > 0 => read,
                Ok(_) => return,
            };
            part.truncate(read);
            let mut due = Instant::now();
            match self.rule(link) {
                Some(Rule::Close) => return,
                Some(Rule::Delay(by)) => due += by,
                Some(Rule::BytesPerSecond(rate)) => {
                    tokio::time::sleep(Duration::from_secs_f64(read as f64 / rate as f64)).await;
                }
                Some(Rule::FlipEvery(bytes)) => {
                    since_flip += read as u64;
                    if since_flip >= bytes {
                        since_flip = 0;
                        let count = self.with(|state| {
                            state.flips += 1;
                            state.flips
                        });
                        // Any bit is suitable. A multiplicative hash spreads the bits over the
                        // part.
                        let bit = count.wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize % (read * 8);
                        part[bit / 8] ^= 1 << (bit % 8);
                    }
                }
                Some(Rule::Hold) | None => {}
            }
            if parts.send((due, part)).await.is_err() {
                return;
            }
        }
    }

    async fn write(
        self,
        mut parts: Receiver<(Instant, Vec<u8>)>,
        mut to: OwnedWriteHalf,
        link: (u64, u64),
    ) {
        while let Some((due, part)) = parts.recv().await {
            tokio::time::sleep_until(due).await;
            self.held(link).await;
            if self.rule(link) == Some(Rule::Close) || to.write_all(&part).await.is_err() {
                return;
            }
        }
        // A held link also holds the end of the stream.
        self.held(link).await;
        let _ = to.shutdown().await;
    }

    async fn held(&self, link: (u64, u64)) {
        while self.rule(link) == Some(Rule::Hold) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The node whose process owns the local socket with this port.
    async fn owner(&self, port: u16) -> Option<u64> {
        let inode = self.1.inode(port).await?;
        let pids = self.with(|state| state.pids.clone());
        let found = tokio::task::spawn_blocking(move || {
            let socket = format!("socket:[{inode}]");
            pids.into_iter().find(|(_, pid)| owns(*pid, &socket)).map(|(node, _)| node)
        });
        found.await.ok().flatten()
    }
}

/// The table of all sockets of this machine. A crowd of clients leaves tens of thousands of
/// sockets, so all connections that wait for the table share one read of it.
#[derive(Default)]
struct Sockets(tokio::sync::Mutex<Option<(Instant, HashMap<u16, String>)>>);

impl Sockets {
    /// The inode of the local socket with this port.
    async fn inode(&self, port: u16) -> Option<String> {
        let asked = Instant::now();
        let mut table = self.0.lock().await;
        if table.as_ref().is_none_or(|(read, _)| *read < asked) {
            let begun = Instant::now();
            let sockets = tokio::task::spawn_blocking(read_sockets).await.ok()?;
            *table = Some((begun, sockets));
        }
        table.as_ref().and_then(|(_, sockets)| sockets.get(&port).cloned())
    }
}

fn read_sockets() -> HashMap<u16, String> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let socket = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let port = fields.next()?.strip_prefix("0100007F:")?;
        // A socket that only waits for its end (TIME_WAIT) has no inode.
        let inode = fields.nth(7).filter(|inode| *inode != "0")?;
        Some((u16::from_str_radix(port, 16).ok()?, inode.to_owned()))
    };
    table.lines().filter_map(socket).collect()
}

fn owns(pid: u32, socket: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries
        .flatten()
        .any(|entry| std::fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == socket))
}
