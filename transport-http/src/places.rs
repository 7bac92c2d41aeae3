//! Limits the connections to the peer port, and the time that each has to introduce itself.
//!
//! Strangers can connect, too. So the slots ("places") are of two kinds: a few for connections that
//! have not introduced themselves, each for a short time, and the others for peers. When the first
//! kind is used up, a new connection displaces the oldest one from the address that has most of
//! them. A peer introduces itself within milliseconds. So a flood of idle connections displaces
//! itself, and not the peers.

use raft::{Incarnation, NodeId};
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// The default limit on all connections to the peer port together.
pub const PEER_CONNECTIONS_MAX: usize = 128;
/// A quarter of the slots, but at most this many, is for connections that have not introduced
/// themselves.
const UNKNOWN_MAX: usize = 32;
/// An eighth of the slots, but at most this many, is for nodes that are not members as far as this
/// node knows. Its membership may be old.
const STRANGERS_MAX: usize = 16;
/// The most connections of one member: its stream, a snapshot, and dead ones that are not known to
/// be dead yet. A further one displaces the oldest.
pub(crate) const MEMBER_MAX: usize = 8;
/// How long a connection may take to introduce itself, or to send its bootstrap request.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(3);

/// The connection slots of a listener. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Places(Arc<Mutex<Taken>>);

#[derive(Debug)]
struct Taken {
    unknown_max: usize,
    strangers_max: usize,
    members_max: usize,
    next: u64,
    unknown: BTreeMap<u64, Unknown>,
    /// The connections of each member, the oldest first.
    known: BTreeMap<NodeId, VecDeque<(u64, Arc<Notify>)>>,
    members: usize,
    strangers: usize,
}

#[derive(Debug)]
struct Unknown {
    from: IpAddr,
    /// Notified to end the connection.
    end: Arc<Notify>,
}

/// The slot of a connection. Dropping it frees the slot.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    number: u64,
    kind: Mutex<Kind>,
    who: OnceLock<(NodeId, Incarnation)>,
    end: Arc<Notify>,
    /// How long this connection has to wait until its next message is decoded, as a stranger.
    owed: Mutex<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Unknown,
    Member(NodeId),
    Stranger,
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Slots for at most `connections_max` connections, but never fewer than four.
    pub fn new(connections_max: usize) -> Self {
        let unknown_max = (connections_max / 4).clamp(1, UNKNOWN_MAX);
        let strangers_max = (connections_max / 8).clamp(1, STRANGERS_MAX);
        let members_max = connections_max.saturating_sub(unknown_max + strangers_max).max(2);
        Places(Arc::new(Mutex::new(Taken {
            unknown_max,
            strangers_max,
            members_max,
            next: 0,
            unknown: BTreeMap::new(),
            known: BTreeMap::new(),
            members: 0,
            strangers: 0,
        })))
    }

    /// Takes a slot for a new connection. If none is free, another connection that has not
    /// introduced itself loses its slot.
    pub fn take(&self, from: IpAddr) -> Place {
        let mut taken = self.lock();
        if taken.unknown.len() >= taken.unknown_max {
            taken.displace();
        }
        let (number, end) = (taken.next, Arc::<Notify>::default());
        taken.next += 1;
        taken.unknown.insert(number, Unknown { from: network_of(from), end: end.clone() });
        let (places, kind) = (self.clone(), Mutex::new(Kind::Unknown));
        Place { places, number, kind, who: OnceLock::new(), end, owed: Mutex::default() }
    }
}

impl Taken {
    /// Ends the oldest connection that has not introduced itself, from the address that has most of
    /// them.
    fn displace(&mut self) {
        let mut counts = BTreeMap::<IpAddr, usize>::new();
        for unknown in self.unknown.values() {
            *counts.entry(unknown.from).or_default() += 1;
        }
        let most = counts.values().copied().max().unwrap_or_default();
        let oldest = self.unknown.iter().find(|(_, unknown)| counts[&unknown.from] == most);
        if let Some(number) = oldest.map(|(number, _)| *number)
            && let Some(unknown) = self.unknown.remove(&number)
        {
            unknown.end.notify_one();
        }
    }
}

impl Taken {
    /// Ends the oldest connection of a member.
    fn displace_member(&mut self, node: NodeId) {
        let oldest = self.known.get(&node).and_then(|places| places.front().cloned());
        if let Some((number, end)) = oldest {
            self.leave(node, number);
            end.notify_one();
        }
    }

    /// Removes a connection of a member. Does nothing if it was displaced before.
    fn leave(&mut self, node: NodeId, number: u64) {
        let Some(places) = self.known.get_mut(&node) else { return };
        let before = places.len();
        places.retain(|(held, _)| *held != number);
        self.members -= before - places.len();
        if places.is_empty() {
            self.known.remove(&node);
        }
    }
}

impl Place {
    /// Records that the connection belongs to `node`. False if no slot is free for it, or if the
    /// connection belongs to another node already.
    pub fn introduce(&self, node: NodeId, is_member: bool) -> bool {
        let mut kind = self.kind.lock().unwrap_or_else(PoisonError::into_inner);
        if *kind != Kind::Unknown {
            return *kind == Kind::Member(node) || *kind == Kind::Stranger && !is_member;
        }
        let mut taken = self.places.lock();
        if is_member {
            // After this node has hung, it finds many connections of a peer, and only the newest is
            // alive.
            if taken.known.get(&node).is_some_and(|places| places.len() >= MEMBER_MAX) {
                taken.displace_member(node);
            }
            if taken.members >= taken.members_max {
                return false;
            }
            taken.members += 1;
            taken.known.entry(node).or_default().push_back((self.number, self.end.clone()));
            *kind = Kind::Member(node);
        } else {
            if taken.strangers >= taken.strangers_max {
                return false;
            }
            taken.strangers += 1;
            *kind = Kind::Stranger;
        }
        taken.unknown.remove(&self.number);
        true
    }

    /// Records the id and the incarnation in the hello of the connection.
    pub fn name(&self, node: NodeId, incarnation: Incarnation) {
        // It says so once.
        let _ = self.who.set((node, incarnation));
    }

    /// The id and the incarnation in the hello of the connection, once it has a slot.
    pub fn who(&self) -> Option<(NodeId, Incarnation)> {
        self.who.get().copied()
    }

    /// The number of connections of nodes that were no members when they introduced themselves.
    pub fn strangers(&self) -> usize {
        self.places.lock().strangers
    }

    fn owed_mut(&self) -> MutexGuard<'_, Duration> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the connection has to wait until its next message is decoded.
    pub fn owed(&self) -> Duration {
        *self.owed_mut()
    }

    /// The connection has to wait for this much longer.
    pub fn owe(&self, time: Duration) {
        let mut owed = self.owed_mut();
        *owed = owed.saturating_add(time);
    }

    /// The connection has waited for this time.
    pub fn pay(&self, time: Duration) {
        let mut owed = self.owed_mut();
        *owed = owed.saturating_sub(time);
    }

    /// Whether the connection has introduced itself.
    pub fn is_known(&self) -> bool {
        *self.kind.lock().unwrap_or_else(PoisonError::into_inner) != Kind::Unknown
    }

    /// Resolves when another connection displaces this one.
    pub async fn is_displaced(&self) {
        self.end.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let kind = *self.kind.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = self.places.lock();
        match kind {
            Kind::Unknown => drop(taken.unknown.remove(&self.number)),
            Kind::Stranger => taken.strangers -= 1,
            Kind::Member(node) => taken.leave(node, self.number),
        }
    }
}

/// The network that counts as one address: for IPv6 a /64, since a host may use any address in it.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let s = v6.segments();
            IpAddr::V6(Ipv6Addr::new(s[0], s[1], s[2], s[3], 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    async fn is_displaced(place: &Place) -> bool {
        tokio::time::timeout(Duration::from_millis(10), place.is_displaced()).await.is_ok()
    }

    #[tokio::test]
    async fn a_flood_displaces_itself_and_not_others() {
        let places = Places::new(PEER_CONNECTIONS_MAX);
        let other = places.take(address(2));
        let flood: Vec<Place> = (0..100).map(|_| places.take(address(1))).collect();
        assert!(!is_displaced(&other).await);
        assert!(is_displaced(&flood[0]).await && !is_displaced(&flood[99]).await);
        assert!(other.introduce(NodeId(2), true));
        assert_eq!(places.lock().unknown.len(), UNKNOWN_MAX - 1);
        drop((flood, other));
        let taken = places.lock();
        assert!(taken.unknown.is_empty() && taken.known.is_empty() && taken.strangers == 0);
    }

    #[tokio::test]
    async fn who_has_introduced_itself_is_not_displaced() {
        let places = Places::new(PEER_CONNECTIONS_MAX);
        let member = places.take(address(1));
        assert!(member.introduce(NodeId(1), true));
        let flood: Vec<Place> = (0..100).map(|_| places.take(address(1))).collect();
        assert!(!is_displaced(&member).await);
        drop(flood);
    }

    #[test]
    fn strangers_leave_the_members_their_places() {
        let places = Places::new(PEER_CONNECTIONS_MAX);
        let strangers: Vec<Place> = (0..100).map(|_| places.take(address(1))).collect();
        let introduced = strangers.iter().filter(|place| place.introduce(NodeId(9), false)).count();
        assert_eq!(introduced, STRANGERS_MAX);
        let members: Vec<Place> = (0..100).map(|_| places.take(address(1))).collect();
        for place in &members {
            assert!(place.introduce(NodeId(1), true), "the oldest makes room");
        }
        assert_eq!(places.lock().members, MEMBER_MAX);
        assert!(places.take(address(1)).introduce(NodeId(2), true));
    }

    #[tokio::test]
    async fn the_newest_connection_of_a_member_is_the_one_that_counts() {
        let places = Places::new(PEER_CONNECTIONS_MAX);
        let all: Vec<Place> = (0..=MEMBER_MAX).map(|_| places.take(address(1))).collect();
        assert!(all.iter().all(|place| place.introduce(NodeId(1), true)));
        assert!(is_displaced(&all[0]).await);
        for place in &all[1..] {
            assert!(!is_displaced(place).await);
        }
        drop(all);
        assert!(places.lock().members == 0 && places.lock().known.is_empty());
    }

    #[test]
    fn all_together_are_bounded() {
        for limit in [16, 128] {
            let places = Places::new(limit);
            let members: Vec<Place> = (0..100).map(|_| places.take(address(1))).collect();
            for (node, place) in members.iter().enumerate() {
                place.introduce(NodeId(node as u64), true);
            }
            let strangers: Vec<Place> = (0..100).map(|_| places.take(address(1))).collect();
            for place in &strangers {
                place.introduce(NodeId(9), false);
            }
            let unknown: Vec<Place> = (0..100).map(|_| places.take(address(1))).collect();
            let taken = places.lock();
            let all = taken.members + taken.strangers + taken.unknown.len();
            assert!(all <= limit && taken.members >= limit / 2, "{taken:?}");
            drop((taken, members, strangers, unknown));
        }
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let of = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), address(1));
    }
}
