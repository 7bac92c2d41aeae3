//! Changing the members of a cluster.
//!
//! An operator declares which members the cluster is to have, with their ids and addresses. The
//! membership in the log also names the incarnation of each data directory, so this module asks
//! every new node for its own. The change itself is the leader's ([`raft::RawNode::set_members`]).

use driver::{Clock, Handle, MembersError, StateMachine};
use raft::{Change, Index, Member, Membership, NodeId, Status, check_address};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use transport_http::{AdmitError, BootstrapService, Listed};

/// How long to wait for a new node that does not answer.
const ADMITTED_WITHIN: Duration = Duration::from_secs(5);
/// How long to wait for a new node that does not know yet whether it was told to join this cluster.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(2);
/// The pause before a new node that did not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// All members that a cluster is to have. Start from the present ones ([`Node::members`]), or from
/// none.
///
/// [`Node::members`]: crate::Node::members
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    declared: BTreeMap<NodeId, Declared>,
    if_version: Option<Index>,
    force: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Declared {
    peer_address: String,
    client_address: String,
    votes: bool,
}

impl Members {
    /// No members.
    pub fn new() -> Self {
        Members::default()
    }

    /// The members of a membership, or of the one that a change in progress leads to.
    pub fn of(membership: &Membership) -> Self {
        let target = membership.target.as_ref();
        let voters = target.map_or(&membership.voters, |target| &target.voters);
        let stays =
            |id: &NodeId| target.is_none_or(|t| t.voters.contains(id) || t.learners.contains(id));
        let declared = membership.members.iter().filter(|(id, _)| stays(id)).map(|(id, member)| {
            let Member { peer_address, client_address, .. } = member.clone();
            (*id, Declared { peer_address, client_address, votes: voters.contains(id) })
        });
        Members { declared: declared.collect(), ..Members::default() }
    }

    /// With this node as a voter, at the `host:port` for its peers and the one for its clients,
    /// which may be empty. A voter counts for every majority. Replaces the node's earlier entry. A
    /// new node has to be up, with an empty data directory and
    /// [`Builder::join`](crate::Builder::join).
    #[must_use]
    pub fn voter(
        self,
        id: u64,
        peer_address: impl Into<String>,
        client_address: impl Into<String>,
    ) -> Self {
        self.with(id, peer_address.into(), client_address.into(), true)
    }

    /// With this node as a learner: it receives everything and answers reads, but counts for no
    /// majority.
    #[must_use]
    pub fn learner(
        self,
        id: u64,
        peer_address: impl Into<String>,
        client_address: impl Into<String>,
    ) -> Self {
        self.with(id, peer_address.into(), client_address.into(), false)
    }

    /// Without this node. It stops when it learns of it
    /// ([`StopReason::NotAMember`](crate::StopReason::NotAMember)).
    #[must_use]
    pub fn without(mut self, id: u64) -> Self {
        self.declared.remove(&NodeId(id));
        self
    }

    /// Reject the change unless the membership has this version ([`Status::membership_index`]).
    #[must_use]
    pub fn if_version(mut self, version: Index) -> Self {
        self.if_version = Some(version);
        self
    }

    /// Do not check that a majority of the new voters answers and stores entries now, nor that a
    /// member answers at the new addresses that are declared for it. The change still waits for
    /// such a majority, and is given up after ten minutes without one. A wrong address can cut off
    /// a member.
    #[must_use]
    pub fn force(mut self) -> Self {
        self.force = true;
        self
    }

    fn with(mut self, id: u64, peer_address: String, client_address: String, votes: bool) -> Self {
        self.declared.insert(NodeId(id), Declared { peer_address, client_address, votes });
        self
    }
}

/// Why the members of a cluster were not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SetMembersError {
    /// A new node cannot be added.
    #[error(transparent)]
    Admit(#[from] AdmitError),
    /// The change was rejected, or not done.
    #[error(transparent)]
    Change(#[from] MembersError),
}

/// Prepares changes of the membership: asks new nodes for the incarnation of their data directory.
/// A clone does the same.
#[derive(Clone)]
pub struct Admission {
    service: Arc<BootstrapService>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admission").finish_non_exhaustive()
    }
}

impl Admission {
    pub(crate) fn new(service: Arc<BootstrapService>, clock: Arc<dyn Clock>) -> Self {
        Admission { service, clock }
    }

    /// Whether [`Admission::change`] asks a node, and so may take seconds.
    pub fn asks(&self, status: &Status, members: &Members) -> bool {
        members.declared.iter().any(|(node, declared)| {
            status.membership.members.get(node).is_none_or(|known| {
                !members.force
                    && (known.peer_address != declared.peer_address
                        || known.client_address != declared.client_address)
            })
        })
    }

    /// The change that leads from the membership in `status` to `members`. A node that is a member
    /// keeps its incarnation; each other one is asked for its own, for up to five seconds. A member
    /// whose addresses change has to answer there, unless the change is forced.
    pub async fn change(&self, status: &Status, members: &Members) -> Result<Change, AdmitError> {
        let voters = members.declared.iter().filter(|(_, d)| d.votes).map(|(id, _)| *id).collect();
        for (node, declared) in &members.declared {
            for address in [&declared.peer_address, &declared.client_address] {
                check_address(address).map_err(|why| AdmitError::Address { node: *node, why })?;
            }
        }
        let mut all = BTreeMap::new();
        for (node, declared) in &members.declared {
            let Declared { peer_address, client_address, .. } = declared.clone();
            let listed = Listed {
                node: *node,
                client_address: client_address.clone(),
                peer_address: peer_address.clone(),
            };
            let incarnation = match status.membership.members.get(node) {
                Some(known) => {
                    let stays = known.peer_address == peer_address
                        && known.client_address == client_address;
                    if !stays && !members.force {
                        self.check_moved(&listed, known.incarnation).await?;
                    }
                    known.incarnation
                }
                None => self.identity(&listed).await?,
            };
            all.insert(*node, Member { incarnation, peer_address, client_address });
        }
        let mut change = Change::to(all, voters);
        change.if_version = members.if_version;
        change.force = members.force;
        Ok(change)
    }

    /// Checks that a member answers at the addresses that are declared for it. Otherwise a mistake
    /// in an address could cut off a voter.
    async fn check_moved(
        &self,
        listed: &Listed,
        incarnation: raft::Incarnation,
    ) -> Result<(), AdmitError> {
        let why = match transport_http::identity_of(&self.service, listed).await {
            Ok(founder) if founder.incarnation() == incarnation => return Ok(()),
            Ok(_) => "it has another data directory".to_owned(),
            Err(AdmitError::Silent { why, .. }) => why,
            Err(AdmitError::NotWaiting { .. }) => {
                "the node there was started with other addresses \
                                                  of its own, or is no member of this cluster"
                    .to_owned()
            }
            Err(error) => error.to_string(),
        };
        Err(AdmitError::NotMoved { node: listed.node, listed: listed.to_string(), why })
    }

    async fn identity(&self, listed: &Listed) -> Result<raft::Incarnation, AdmitError> {
        let within_ns = ADMITTED_WITHIN.as_nanos() as u64;
        let now_ns = self.clock.now().monotonic_ns;
        let until_ns = now_ns.saturating_add(within_ns);
        let asked_until_ns = now_ns.saturating_add(CONFIRMED_WITHIN.as_nanos() as u64);
        loop {
            match transport_http::identity_of(&self.service, listed).await {
                Ok(founder) => return Ok(founder.incarnation()),
                Err(AdmitError::Silent { .. }) if self.clock.now().monotonic_ns < until_ns => {
                    self.clock.sleep(ASK_AGAIN).await;
                }
                // It asks the nodes that it was told to join whether this is their cluster.
                Err(AdmitError::OtherCluster { .. })
                    if self.clock.now().monotonic_ns < asked_until_ns =>
                {
                    self.clock.sleep(ASK_AGAIN).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Changes the members and waits until that is done.
pub(crate) async fn set_members<S: StateMachine>(
    handle: &Handle<S>,
    admission: &Admission,
    members: &Members,
) -> Result<Index, SetMembersError> {
    let change = admission.change(&handle.status().raft, members).await?;
    let begun = handle.set_members(change.clone()).await?;
    Ok(handle.members_set(begun, &change).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::{Incarnation, LogTime};

    fn member(id: u64) -> Member {
        Member {
            incarnation: Incarnation(id),
            peer_address: format!("p{id}:1"),
            client_address: format!("c{id}:1"),
        }
    }

    #[test]
    fn the_present_members_are_those_that_a_change_leads_to() {
        let two: BTreeMap<_, _> = [1, 2].map(|id| (NodeId(id), member(id))).into();
        let membership = Membership::of_voters(two.clone());
        let expected = Members::new().voter(1, "p1:1", "c1:1").voter(2, "p2:1", "c2:1");
        assert_eq!(Members::of(&membership), expected);

        let next: BTreeMap<_, _> = [2, 3].map(|id| (NodeId(id), member(id))).into();
        let planned = membership.planned(next, [NodeId(3)].into(), LogTime(0));
        let expected = Members::new().learner(2, "p2:1", "c2:1").voter(3, "p3:1", "c3:1");
        assert_eq!(Members::of(&planned), expected);
        assert_eq!(Members::of(&planned.joint()), expected);
        assert_eq!(Members::of(&planned.joint().entered()), expected);
        assert_eq!(expected.clone().without(2), Members::new().voter(3, "p3:1", "c3:1"));
    }
}
