//! How a node whose data directory is empty becomes a member of a cluster.
//!
//! [`Builder::start`](crate::Builder::start) uses it on the real machine, a simulation on simulated
//! disks and sockets: whatever fails in between, the founders of a cluster agree on one first
//! membership, and a node whose disk was wiped is refused.
//!
//! It does not contain the exchange between founders, which is the transport's
//! ([`transport_http::bootstrap_on`]), and the order of what becomes durable
//! ([`storage::Directory`]).

use raft::{Incarnation, NodeId};
use std::io;
use std::pin::pin;
use std::time::Duration;
use storage::{ClaimError, Disk, MemberDirectory, Unclaimed};
use transport_http::net::Net;
use transport_http::{BootstrapError, BootstrapService, Founder, Listed};

/// How often a node that waits for others looks whether its directory is still there.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// How a node with an empty data directory begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// It bootstraps a cluster, together with all nodes on the list.
    Bootstrap,
    /// It waits until it has been added to the cluster of the nodes on the list.
    Join,
}

/// Why a node did not become a member.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BeginError {
    /// The directory is another node's, or began with other founders, or cannot be written to.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The founders do not agree, or this node is refused.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The directory cannot be written to.
    #[error(transparent)]
    Disk(#[from] io::Error),
}

/// Bootstraps or joins a cluster. `own` is the entry of this node in `list`; `service` answers the
/// other founders, on this node's listener for peers. Waits for the other nodes without a limit.
pub async fn begin<D: Disk, N: Net>(
    net: &N,
    service: &BootstrapService,
    unclaimed: Unclaimed<D>,
    own: &Listed,
    list: &[Listed],
    how: Begin,
) -> Result<MemberDirectory<D>, BeginError> {
    let founders: Vec<NodeId> = match how {
        Begin::Bootstrap => list.iter().map(|listed| listed.node).collect(),
        Begin::Join => Vec::new(),
    };
    let announced = unclaimed.announce(own.node, Incarnation(net.draw()), &founders)?;
    let founder =
        Founder::new(announced.who(), own.peer_address.clone(), own.client_address.clone());
    let disk = announced.disk().clone();
    let (cluster, membership) = match how {
        Begin::Join => {
            let named: Vec<String> =
                list.iter().filter(|l| l.node != own.node).map(Listed::to_string).collect();
            let named = named.join(",");
            tracing::info!(
                "node {} waits to be added as a member to the cluster of {named}",
                own.node
            );
            let joining = transport_http::join_on(net, service, &founder, list);
            let joined = while_in_place(net, &disk, joining).await??;
            tracing::info!(cluster = %joined.cluster, "was added to a cluster");
            (joined.cluster, joined.membership)
        }
        Begin::Bootstrap => {
            service.answer_as_founder(founder.clone(), list.to_vec());
            let bootstrapping = transport_http::bootstrap_on(net, service, &founder, list);
            match while_in_place(net, &disk, bootstrapping).await? {
                Ok(founded) => {
                    tracing::info!(cluster = %founded.cluster, "bootstrapped a cluster");
                    (founded.cluster, founded.membership)
                }
                Err(error) => {
                    if service.withdraw() {
                        // No node counts on this one, now or later: it may found another cluster.
                        announced.forget_founders()?;
                    }
                    return Err(error.into());
                }
            }
        }
    };
    Ok(announced.join(cluster, membership)?)
}

/// Waits for `work`. Ends with an error if the data directory is removed or replaced meanwhile: a
/// node without one must not become a member.
async fn while_in_place<D: Disk, N: Net, F: Future>(
    net: &N,
    disk: &D,
    work: F,
) -> io::Result<F::Output> {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            () = net.sleep(CHECK_EVERY) => disk.check_in_place()?,
        }
    }
}
