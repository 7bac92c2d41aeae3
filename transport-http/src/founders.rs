//! The founders of a cluster, as an operator lists them, and how two lists differ.

use raft::{AddressError, Incarnation, Membership, NodeId, check_address};
use serde::{Deserialize, Serialize};
use std::fmt;
use storage::DurableIncarnation;

/// The identity that a founder sends to the others. Its incarnation is durable: it comes from a
/// [`DurableIncarnation`], which exists only after the write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founder {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) peer_address: String,
    pub(crate) client_address: String,
}

impl Founder {
    /// This node, with the addresses where its peers and its clients reach it.
    pub fn new(who: DurableIncarnation, peer_address: String, client_address: String) -> Self {
        let (node, incarnation) = (who.node(), who.incarnation());
        Founder { node, incarnation, peer_address, client_address }
    }

    /// The id of the node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The incarnation of its data directory.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Its entry in a list of founders.
    pub fn listed(&self) -> Listed {
        Listed {
            node: self.node,
            client_address: self.client_address.clone(),
            peer_address: self.peer_address.clone(),
        }
    }
}

/// A founder's entry in the operator's list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Listed {
    /// The id of the node.
    pub node: NodeId,
    /// The `host:port` where its clients reach it; may be empty.
    pub client_address: String,
    /// The `host:port` where its peers reach it.
    pub peer_address: String,
}

impl Listed {
    /// Checks the length and the characters of both addresses, so that they may be printed.
    pub(crate) fn check(&self) -> Result<(), AddressError> {
        check_address(&self.client_address)?;
        check_address(&self.peer_address)
    }
}

/// Whether a character shows itself and changes nothing around it, wherever it is printed.
pub(crate) fn is_visible(c: char) -> bool {
    c.is_ascii_graphic() || c.is_alphanumeric()
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Listed { node, client_address, peer_address } = self;
        match client_address.is_empty() {
            true => write!(f, "{node}={peer_address}"),
            false => write!(f, "{node}={client_address}/{peer_address}"),
        }
    }
}

/// The most entries of a list that are printed: anybody may send a long one.
const PRINTED_MAX: usize = 16;

/// Prints a list as it is given on the command line. Of a long one, prints the beginning.
pub(crate) struct Lists<'a>(pub &'a [Listed]);

impl fmt::Display for Lists<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, listed) in self.0.iter().take(PRINTED_MAX).enumerate() {
            write!(f, "{}{listed}", if at == 0 { "" } else { "," })?;
        }
        match self.0.len().saturating_sub(PRINTED_MAX) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// The members of a cluster as a list.
pub(crate) fn listed(membership: &Membership) -> Vec<Listed> {
    let listed = membership.members.iter().map(|(node, member)| Listed {
        node: *node,
        client_address: member.client_address.clone(),
        peer_address: member.peer_address.clone(),
    });
    listed.collect()
}

/// How this node's list differs from one that another node has sent. It discloses only which of the
/// sent entries are right, and how many entries are missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Difference {
    /// For each entry that was sent: whether this node has it too.
    agrees: Vec<bool>,
    /// The number of entries that only this node has.
    more: usize,
    /// Whether this node's list consists of the members of an existing cluster.
    of_members: bool,
}

impl Difference {
    pub fn between(sent: &[Listed], own: &[Listed], of_members: bool) -> Self {
        let agrees: Vec<bool> = sent.iter().map(|listed| own.contains(listed)).collect();
        let more = own.iter().filter(|listed| !sent.contains(listed)).count();
        Difference { agrees, more, of_members }
    }

    pub fn of_members(&self) -> bool {
        self.of_members
    }

    /// Describes the other list, as far as the sender of `sent` may know it.
    pub fn describe(&self, sent: &[Listed]) -> String {
        let part = |agrees: bool| -> Vec<Listed> {
            let entries = sent.iter().zip(&self.agrees);
            entries.filter(|(_, a)| **a == agrees).map(|(listed, _)| listed.clone()).collect()
        };
        let (same, other) = (part(true), part(false));
        let mut text = Lists(&same).to_string();
        if !other.is_empty() {
            text += &format!(", but not {}", Lists(&other));
        }
        match self.more {
            0 => {}
            1 => text += ", and another entry",
            more => text += &format!(", and {more} other entries"),
        }
        text
    }
}
