//! The limits on clients: sizes, counts, times and memory.

use std::time::Duration;

/// The limits on clients. All of them are per node.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The most bytes of a key. Default 4 KiB.
    pub key_bytes_max: usize,
    /// The most bytes of a value. Default 1 MiB.
    pub value_bytes_max: usize,
    /// The most operations in one batch. Default 1024.
    pub batch_operations_max: usize,
    /// The most bytes of all keys and values of one batch. Default 4 MiB.
    pub batch_bytes_max: usize,
    /// The most client connections at once. Default 4096; fewer if the process may have fewer file
    /// descriptors.
    pub connections_max: usize,
    /// The most single reads and writes in progress at once. Default 256. Further requests wait
    /// briefly and are then refused. While requests take long, the node lowers the limit, down to
    /// 32.
    pub requests_max: usize,
    /// The most batches in progress at once. Default 64. Further batches are refused. Batches are
    /// counted separately, so that they do not take the places of single requests.
    pub batches_max: usize,
    /// The most bytes of request bodies in memory at once, over all connections. Default 256 MiB.
    pub bodies_bytes_max: usize,
    /// The most bytes that long replies keep in memory at once, over all connections. Default 256
    /// MiB. Counts bytes shared with the store, and bytes about to be sent.
    pub replies_bytes_max: usize,
    /// The time after which the outcome of a write is reported as unknown. Default 10 s.
    pub request_timeout: Duration,
    /// How long a write waits for a leader that accepts it. Default 5 s. Should be longer than
    /// several elections.
    pub leader_wait: Duration,
    /// A member that has not answered for this long is reported as silent. Default 1.5 s. Should be
    /// longer than an election.
    pub silence_max: Duration,
    /// How long a read waits for a leader to confirm it. Default 5 s. Should be longer than several
    /// elections.
    pub read_timeout: Duration,
    /// How long a client may take to send a head, to send a whole body, or to read the next bytes
    /// of a reply. Default 30 s.
    pub client_timeout: Duration,
    /// The most commands that are retained for `get_commits_since`. Default 100,000.
    pub history_commands_max: usize,
    /// The most bytes of retained commands. Default 64 MiB.
    pub history_bytes_max: usize,
    /// The most listings of the history at once. Default 16. Each keeps a frozen state of the store
    /// in memory.
    pub listings_max: usize,
    /// A listing is sent in parts of about this many bytes. Default 64 KiB.
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

/// A request waits for a leader for at least this many election timeouts. One passes until the loss
/// of a leader is noticed, an election takes one or two, and some elections fail.
const ELECTIONS: u32 = 10;
/// A member is reported as silent after this many election timeouts at the earliest.
const SILENT_ELECTIONS: u32 = 5;

impl Limits {
    /// Raises the waiting times to suit an election timeout. None of them is lowered.
    #[must_use]
    pub fn for_elections(mut self, election_timeout: Duration) -> Self {
        let wait = election_timeout * ELECTIONS;
        self.silence_max = self.silence_max.max(election_timeout * SILENT_ELECTIONS);
        self.leader_wait = self.leader_wait.max(wait);
        self.read_timeout = self.read_timeout.max(wait);
        self.request_timeout = self.request_timeout.max(wait);
        self
    }

    /// The most bytes of the JSON of one compatible command, if every byte of its texts is escaped.
    pub(crate) fn command_json_bytes_max(&self) -> usize {
        JSON_BYTES_PER_BYTE * (self.key_bytes_max + 2 * self.value_bytes_max) + JSON_FRAME_BYTES
    }

    /// The most bytes of the JSON of a batch, if every byte of its texts is escaped.
    pub(crate) fn batch_json_bytes_max(&self) -> usize {
        JSON_BYTES_PER_BYTE * self.batch_bytes_max
            + JSON_FRAME_BYTES * self.batch_operations_max / 16
    }
}

/// A byte of a text takes at most this many bytes in JSON: `\\u0000`.
const JSON_BYTES_PER_BYTE: usize = 6;
/// Allowance for the JSON around the texts of a command. A batch has a sixteenth of it for each
/// operation.
const JSON_FRAME_BYTES: usize = 4 << 10;
