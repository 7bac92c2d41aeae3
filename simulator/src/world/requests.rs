//! The clients of the world, and the requests that they have sent.
//!
//! An operation stays here after its end, because a late answer may still arrive. What clients do
//! is in `clients.rs`.

use super::*;

pub(super) struct ClientOperation {
    pub client: usize,
    pub node: usize,
    pub request: ClientRequest,
    pub begun_us: u64,
    /// The highest committed index when the client sent the request.
    pub floor: Index,
    /// The event at which it reached a node.
    pub came_at: u64,
    /// A lease is enough to confirm it.
    pub by_lease: bool,
    pub open: bool,
    pub in_session: InSession,
}

/// The part that an operation has in a session.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum InSession {
    No,
    /// It opens a session for its client. Its request follows once that is open.
    Opens,
    /// It closes this session, which its client has. Its request follows.
    Closes(SessionId),
    /// It has this number. `may_be_done` once an attempt may have been appended; `is_repeated`
    /// until its client gives up. An attempt that is under way then belongs to the session too.
    Has {
        number: SessionNumber,
        may_be_done: bool,
        is_repeated: bool,
    },
}

/// Kinds of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Served {
    pub commands: bool,
    pub queries: bool,
}

impl Served {
    pub(super) fn note(&mut self, request: &ClientRequest) {
        match request {
            ClientRequest::Command(_) => self.commands = true,
            ClientRequest::Query(_) => self.queries = true,
        }
    }
}

/// The session of a client.
#[derive(Clone, Copy)]
pub(super) struct ClientSession {
    pub id: SessionId,
    /// The number of the next command.
    pub next: u64,
    /// It was closed. One more command is sent, which must not be executed.
    pub is_closed: bool,
}

pub(super) struct Client {
    pub draw: Stream,
    pub leader: u64,
    pub operation: Option<usize>,
    pub uses_sessions: bool,
    pub session: Option<ClientSession>,
    /// The backoff after an operation whose outcome is unknown; it doubles each time.
    pub backoff_us: u64,
}
