//! The bounds on what clients may ask for and hold, in one place.

use std::time::Duration;

/// The bounds on what clients may ask for.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The most bytes of a key.
    pub key_bytes_max: usize,
    /// The most bytes of a value.
    pub value_bytes_max: usize,
    /// The most operations in one batch.
    pub batch_operations_max: usize,
    /// The most bytes of all keys and values of one batch.
    pub batch_bytes_max: usize,
    /// The most client connections at once.
    pub connections_max: usize,
    /// The most requests to read or write that are worked on at once; beyond it they are refused.
    /// There are fewer places, down to 32, while requests take long.
    pub requests_max: usize,
    /// The most batches that are worked on at once; beyond it they are refused. They have places of
    /// their own, so that they do not take those of single requests.
    pub batches_max: usize,
    /// The most bytes of request bodies held at once, all connections together.
    pub bodies_bytes_max: usize,
    /// The most bytes that long replies keep in memory at once, all connections together: those
    /// shared with the store, and those about to be sent.
    pub replies_bytes_max: usize,
    /// How long a write may take until its outcome counts as unknown.
    pub request_timeout: Duration,
    /// How long a write waits for a leader that takes it. Several elections should fit in.
    pub leader_wait: Duration,
    /// A member that has not answered for longer is reported as silent. It may miss a few answers:
    /// an election takes that long too.
    pub silence_max: Duration,
    /// How long a read may wait for a leader to confirm it. Several elections should fit in.
    pub read_timeout: Duration,
    /// How long a client may take to send a head, or the whole of a body, or to go on reading a
    /// reply.
    pub client_timeout: Duration,
    /// How many commands are kept for `get_commits_since`.
    pub history_commands_max: usize,
    /// How many bytes of commands are kept for it.
    pub history_bytes_max: usize,
    /// Listings of the history that may be under way at once. Each holds on to a state of the
    /// store.
    pub listings_max: usize,
    /// A listing goes out in parts of about this many bytes.
    pub listing_part_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            key_bytes_max: 4 << 10,
            value_bytes_max: 1 << 20,
            batch_operations_max: 1024,
            batch_bytes_max: 4 << 20,
            connections_max: 4096,
            requests_max: 256,
            batches_max: 64,
            bodies_bytes_max: 256 << 20,
            replies_bytes_max: 256 << 20,
            request_timeout: Duration::from_secs(10),
            leader_wait: Duration::from_secs(5),
            silence_max: Duration::from_millis(1500),
            read_timeout: Duration::from_secs(5),
            client_timeout: Duration::from_secs(30),
            history_commands_max: 100_000,
            history_bytes_max: 64 << 20,
            listings_max: 16,
            listing_part_bytes: 64 << 10,
        }
    }
}

/// As many election timeouts fit into the time that a request waits for a leader: a first one has
/// passed until the loss of a leader is noticed, an election takes another or two, and some fail.
const ELECTIONS: u32 = 10;
/// A member that has not answered for this many election timeouts is reported as silent.
const SILENT_ELECTIONS: u32 = 5;

impl Limits {
    /// Of a node with this election timeout: where elections take longer, requests wait for longer.
    #[must_use]
    pub fn for_elections(mut self, election_timeout: Duration) -> Self {
        let wait = election_timeout * ELECTIONS;
        self.silence_max = self.silence_max.max(election_timeout * SILENT_ELECTIONS);
        self.leader_wait = self.leader_wait.max(wait);
        self.read_timeout = self.read_timeout.max(wait);
        self.request_timeout = self.request_timeout.max(wait);
        self
    }

    /// The most bytes of the JSON of one compatible command: every byte of its texts may be
    /// escaped.
    pub(crate) fn command_json_bytes_max(&self) -> usize {
        JSON_BYTES_PER_BYTE * (self.key_bytes_max + 2 * self.value_bytes_max) + JSON_FRAME_BYTES
    }

    /// The most bytes of the JSON of a batch.
    pub(crate) fn batch_json_bytes_max(&self) -> usize {
        JSON_BYTES_PER_BYTE * self.batch_bytes_max
            + JSON_FRAME_BYTES * self.batch_operations_max / 16
    }
}

/// A byte of a text takes at most this many bytes in JSON: `\\u0000`.
const JSON_BYTES_PER_BYTE: usize = 6;
/// Room for the names of fields and the like.
const JSON_FRAME_BYTES: usize = 4 << 10;
