//! Randomness by name: every draw is a pure function of (seed, purpose, entity, counter).
//!
//! Streams are independent. When a fault is removed from a plan, all other draws stay as they were,
//! so a failing plan still fails when it is shrunk. With a shared generator, every later draw would
//! change.

/// The purpose of a draw. It is part of the stream's name: two purposes never share a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// The parameters of a run.
    Swarm = 1,
    /// When and where faults strike.
    Faults,
    /// The fate of a message in the network.
    Network,
    /// Delays and faults of a disk, and what a crash leaves of it.
    Disk,
    /// How long a state machine takes.
    Machine,
    /// The behaviour of clients.
    Client,
    /// Seeds of the nodes.
    Node,
    /// The faults that remain when the others stop, and transfers that are given up.
    Ending,
    /// Changes of the membership.
    Churn,
    /// The sessions of clients.
    Sessions,
    /// Leases, and clocks within their bound on drift.
    Lease,
    /// The priorities of nodes.
    Priority,
    /// Reports of processes that have ended.
    Gone,
    /// Where the transfer of a snapshot is cut off, and the sizes of its chunks.
    Cuts,
    /// Clocks that go back.
    Clocks,
    /// Snapshots that cannot be read when they are to be sent.
    Unread,
    /// The bound of the log.
    LogBound,
}

/// A stream of draws.
#[derive(Clone, Debug)]
pub struct Stream {
    key: u64,
    counter: u64,
}

impl Stream {
    /// The stream for this purpose and entity (a node, a link, a client) under this seed.
    pub fn new(seed: u64, purpose: Purpose, entity: u64) -> Self {
        Stream { key: mix(mix(mix(seed) ^ purpose as u64) ^ entity), counter: 0 }
    }

    /// The next draw.
    pub fn draw(&mut self) -> u64 {
        self.counter += 1;
        mix(self.key ^ mix(self.counter))
    }

    /// A number below `below`, which is not 0. The bias is below 2⁻³² for what is drawn here.
    pub fn below(&mut self, below: u64) -> u64 {
        self.draw() % below
    }

    /// A number from `from` up to and including `to`.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// Returns true with a probability of `per_million` millionths.
    pub fn chance(&mut self, per_million: u32) -> bool {
        self.below(1_000_000) < u64::from(per_million)
    }

    /// Picks one of these, all with the same probability.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// The finaliser of SplitMix64: every bit of the input reaches every bit of the output.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_do_not_know_of_one_another() {
        let mut alone = Stream::new(7, Purpose::Network, 1);
        let first = [alone.draw(), alone.draw()];
        let mut again = Stream::new(7, Purpose::Network, 1);
        let mut other = Stream::new(7, Purpose::Network, 2);
        let mixed = [again.draw(), other.draw(), again.draw()];
        assert_eq!(first, [mixed[0], mixed[2]]);
        assert_ne!(mixed[0], mixed[1]);
        assert_ne!(first[0], Stream::new(8, Purpose::Network, 1).draw());
        assert_ne!(first[0], Stream::new(7, Purpose::Disk, 1).draw());
    }

    #[test]
    fn chances_come_out_about_right() {
        let mut stream = Stream::new(1, Purpose::Swarm, 0);
        let hits = (0..100_000).filter(|_| stream.chance(100_000)).count();
        assert!((9_000..11_000).contains(&hits), "{hits} of about 10,000");
    }
}
