//! Clients that remember their answers, and checks of the history of all clients.
//!
//! A protocol with tokens needs them: the token in an answer is part of the next command.

use crate::checks::Check;
use crate::random::Stream;
use crate::violation::{About, Violation};
use crate::workload::{Answered, ClientOutcome, ClientRequest, Workload};
use bytes::Bytes;
use driver::StateMachine;
use std::collections::BTreeMap;
use std::rc::Rc;

/// A client of a [`Simulation`](crate::Simulation), with a state of its own. It has one request at
/// a time.
pub trait Client {
    /// Returns the next request. It must take all randomness from `draw`.
    fn request(&mut self, draw: &mut Stream) -> ClientRequest;

    /// Takes the outcome of the request. An error says what is wrong with the answer, and ends the
    /// run: no correct state machine gives it.
    ///
    /// If the outcome is unknown, the request may still be done later, even after the next one.
    fn answered(&mut self, _answered: &Answered<'_>) -> Result<(), String> {
        Ok(())
    }
}

/// Why a history is wrong.
#[derive(Clone, Debug)]
pub struct Objection {
    detail: String,
    /// Client and begin of each request.
    requests: Vec<(u64, u64)>,
}

impl Objection {
    /// An objection to these requests, which the page of the failure shows.
    pub fn to<'a>(
        detail: impl Into<String>,
        requests: impl IntoIterator<Item = &'a Answered<'a>>,
    ) -> Self {
        let requests = requests.into_iter().map(|it| (it.client, it.begun_us)).collect();
        Objection { detail: detail.into(), requests }
    }
}

/// An objection to no request in particular.
impl From<String> for Objection {
    fn from(detail: String) -> Self {
        Objection { detail, requests: Vec::new() }
    }
}

impl From<Objection> for Violation {
    fn from(Objection { detail, requests }: Objection) -> Self {
        let about = About { requests: requests.into_iter().collect(), ..About::default() };
        Violation::new(Check::HistoryOfTheTest, about, detail)
    }
}

/// A client that takes its requests from a closure and remembers nothing.
pub(crate) struct Forgetful<F> {
    pub number: u64,
    pub requests: Rc<F>,
}

impl<F: Fn(u64, &mut Stream) -> ClientRequest> Client for Forgetful<F> {
    fn request(&mut self, draw: &mut Stream) -> ClientRequest {
        (self.requests)(self.number, draw)
    }
}

/// The workload of clients that do not share anything.
pub(crate) struct Clients<F, G, C> {
    pub machine: Rc<F>,
    pub client: Rc<G>,
    /// By number. A client is constructed at its first request.
    pub clients: BTreeMap<u64, C>,
    /// What a client has found wrong with the latest answer.
    pub objection: Option<Violation>,
}

impl<M, F, G, C> Workload for Clients<F, G, C>
where
    M: StateMachine,
    F: Fn() -> M,
    G: Fn(u64) -> C,
    C: Client,
{
    type Machine = M;

    fn machine(&self) -> M {
        (self.machine)()
    }

    fn request(&mut self, client: u64, draw: &mut Stream) -> ClientRequest {
        self.clients.entry(client).or_insert_with(|| (self.client)(client)).request(draw)
    }

    fn answered(&mut self, answered: &Answered<'_>) {
        let Some(client) = self.clients.get_mut(&answered.client) else { return };
        if let Err(detail) = client.answered(answered) {
            let detail = format!("client {}: {detail}", answered.client);
            let requests = [(answered.client, answered.begun_us)].into();
            let about = About { requests, ..About::default() };
            self.objection.get_or_insert(Violation::new(
                Check::AnswerSuitsTheClient,
                about,
                detail,
            ));
        }
    }

    fn objection(&mut self) -> Result<(), Violation> {
        self.objection.take().map_or(Ok(()), Err)
    }

    fn verdict(&mut self) -> Result<(), Violation> {
        self.objection()
    }
}

/// A request that has ended.
pub(crate) struct Ended {
    client: u64,
    request: ClientRequest,
    begun_us: u64,
    ended_us: u64,
    /// The answer, if the request was done.
    answer: Option<Bytes>,
    /// Whether it may have been done.
    is_unknown: bool,
}

impl Ended {
    pub fn of(answered: &Answered<'_>) -> Self {
        let Answered { client, request, begun_us, ended_us, outcome } = *answered;
        let answer = match outcome {
            ClientOutcome::Done(answer) => Some(Bytes::copy_from_slice(answer)),
            _ => None,
        };
        let is_unknown = outcome == ClientOutcome::Unknown;
        Ended { client, request: request.clone(), begun_us, ended_us, answer, is_unknown }
    }

    pub fn answered(&self) -> Answered<'_> {
        let outcome = match &self.answer {
            Some(answer) => ClientOutcome::Done(answer),
            None if self.is_unknown => ClientOutcome::Unknown,
            None => ClientOutcome::NotDone,
        };
        let Ended { client, ref request, begun_us, ended_us, .. } = *self;
        Answered { client, request, begun_us, ended_us, outcome }
    }
}
