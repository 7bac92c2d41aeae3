//! The store under test: its settings, and what its clients have observed.

use super::history::History;
use super::values::{self, Values};
use kv::limits::Limits;
use simulator::Plan;
use simulator::random::{Purpose, Stream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One plan in this many writes values of megabytes.
const LARGE_ONE_IN: u64 = 12;
/// More deleted keys than there are keys: no limit in effect.
const DELETED_MAX: usize = 1_000_000;
/// More bytes than the commands of a run have: no limit in effect.
const BYTES_MAX: usize = 1 << 40;
/// The lowest limit of concurrent listings on a node.
pub(super) const LISTINGS_MAX_LEAST: usize = 2;

/// The store, and the observations of its clients.
pub struct Store {
    history: Mutex<History>,
    pub(super) limits: Limits,
    pub(super) deleted_max: usize,
    /// The values that clients write.
    pub(super) values: Values,
    /// Whether nodes forward writes to the leader. If not, they redirect the client.
    pub(super) forward: bool,
}

impl Store {
    /// Creates the store for a plan, whose seed decides the settings of the store.
    pub fn new(plan: &Plan) -> Self {
        let mut draw = Stream::new(plan.seed, Purpose::Client, 1_000);
        // Some timeouts are longer than an election or two, and some are shorter.
        let elections_ms = 20 * plan.election_us() / 1_000;
        let mut limits = Limits {
            history_commands_max: draw.pick(&[5, 50, 100_000, 100_000]),
            request_timeout: Duration::from_millis(draw.pick(&[300, 2_000, 10_000, elections_ms])),
            read_timeout: Duration::from_millis(draw.pick(&[300, 5_000])),
            ..Limits::default()
        };
        let forward = draw.below(4) > 0;
        // So low that a leaked listing is noticed.
        limits.listings_max = draw.pick(&[LISTINGS_MAX_LEAST, limits.listings_max]);
        // With lower limits, small requests reach them too.
        limits.listing_part_bytes = draw.pick(&[1, 300, 5_000, limits.listing_part_bytes]);
        limits.history_bytes_max = draw.pick(&[1_000, 30_000, BYTES_MAX, BYTES_MAX]);
        let deleted_max = draw.pick(&[1, 3, DELETED_MAX, DELETED_MAX]);
        for bytes_max in [&mut limits.bodies_bytes_max, &mut limits.replies_bytes_max] {
            *bytes_max = draw.pick(&[8 << 20, *bytes_max]);
        }
        // A large state must not be written to snapshots often.
        let values = Values {
            padding: u64::from(plan.swarm.padding_bytes),
            large: draw.below(LARGE_ONE_IN) == 0 && plan.swarm.snapshot_bytes >= 20_000,
        };
        if values.large {
            limits.value_bytes_max = values::LARGE_BYTES_MAX;
            // As JSON, one of them may be larger than the low limit.
            limits.replies_bytes_max = Limits::default().replies_bytes_max;
        }
        let complete =
            limits.history_commands_max >= 100_000 && limits.history_bytes_max == BYTES_MAX;
        let forgets = deleted_max < DELETED_MAX;
        let history = Mutex::new(History::new(complete, forgets));
        Store { history, limits, deleted_max, values, forward }
    }

    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
