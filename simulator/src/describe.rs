//! How commands, queries and answers read in the report of a failure and on its page.

use crate::timeline::shown_within;
use crate::workload::ClientRequest;

/// Without a description, text has this many bytes of a command, a query or an answer.
const TOLD_BYTES: usize = 256;

/// Describes the bytes of a workload for readers. By default they are shown as text if all are
/// printable ASCII, and otherwise in hexadecimal; after 256 bytes they are cut.
pub trait Describe {
    /// Describes a command.
    fn command(&self, command: &[u8]) -> String {
        shown_within(command, TOLD_BYTES)
    }

    /// Describes a query.
    fn query(&self, query: &[u8]) -> String {
        shown_within(query, TOLD_BYTES)
    }

    /// Describes the answer to a request.
    fn answer(&self, _request: &ClientRequest, answer: &[u8]) -> String {
        shown_within(answer, TOLD_BYTES)
    }
}

/// The default descriptions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Describe for Plain {}

/// Descriptions by closures; what has none is described as [`Plain`].
#[derive(Default)]
pub(crate) struct Words {
    pub command: Option<DescribeBytes>,
    pub query: Option<DescribeBytes>,
    pub answer: Option<DescribeAnswer>,
}

type DescribeBytes = Box<dyn Fn(&[u8]) -> String>;
type DescribeAnswer = Box<dyn Fn(&ClientRequest, &[u8]) -> String>;

impl Words {
    pub fn is_empty(&self) -> bool {
        self.command.is_none() && self.query.is_none() && self.answer.is_none()
    }
}

impl Describe for Words {
    fn command(&self, command: &[u8]) -> String {
        self.command.as_ref().map_or_else(|| Plain.command(command), |words| words(command))
    }

    fn query(&self, query: &[u8]) -> String {
        self.query.as_ref().map_or_else(|| Plain.query(query), |words| words(query))
    }

    fn answer(&self, request: &ClientRequest, answer: &[u8]) -> String {
        match &self.answer {
            Some(words) => words(request, answer),
            None => Plain.answer(request, answer),
        }
    }
}

/// Describes a request.
pub(crate) fn request(describe: &dyn Describe, request: &ClientRequest) -> String {
    match request {
        ClientRequest::Command(command) => describe.command(command),
        ClientRequest::Query(query) => describe.query(query),
    }
}
