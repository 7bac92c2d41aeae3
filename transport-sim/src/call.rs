//! Requests to a node and their answers, as connections carry them. A request that was never sent
//! was not executed. If it was sent and not answered, its outcome is unknown. When a client gives
//! up, its connection closes and the work is dropped at whichever await point it has reached.

use crate::app::App;
use crate::cluster::Cluster;
use crate::picture::Asked;
use crate::time::sleep_us;
use raft::NodeId;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::oneshot;

/// The timeout of a client that connects.
const CONNECT_TIMEOUT_US: u64 = 1_000_000;
/// A client detects a connection that died silently after this time.
const SILENCE_US: u64 = 3_000_000;

/// The reason why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The request was never sent: it was not executed.
    NotSent,
    /// The request was sent: it may have been executed.
    Lost,
}

/// The fate of a request and its answer.
struct Fate {
    there_us: u64,
    back_us: u64,
    /// The connection fails although the node is up.
    no_connection: bool,
    /// The request is lost before it arrives.
    request_lost: bool,
    /// The answer is lost.
    answer_lost: bool,
}

impl<A: App> Cluster<A> {
    /// Sends a client's request to a node and waits for the answer. Partitions of the plan do not
    /// apply. Dropping the future closes the connection.
    pub async fn call(
        &self,
        client: u64,
        to: NodeId,
        request: A::Request,
    ) -> Result<A::Response, CallError> {
        let asked = Asked::new(self, client, to, &request);
        let answer = self.carry(to, request).await;
        if let Some(asked) = asked {
            asked.answered(&answer);
        }
        answer
    }

    async fn carry(&self, to: NodeId, request: A::Request) -> Result<A::Response, CallError> {
        let fate = self.draw_fate();
        sleep_us(fate.there_us).await;
        if fate.no_connection {
            sleep_us(self.in_proportion(CONNECT_TIMEOUT_US)).await;
            return Err(CallError::NotSent);
        }
        let target = {
            let world = self.world();
            let up = world.hosts.get(to.0 as usize).and_then(|host| host.up.as_ref());
            up.and_then(|up| Some((up.machine.clone(), up.service.clone()?, up.requests.begin())))
        };
        let Some((machine, service, begun)) = target else { return Err(CallError::NotSent) };
        if fate.request_lost {
            drop(begun);
            self.mark("a request was lost");
            sleep_us(self.in_proportion(SILENCE_US)).await;
            return Err(CallError::Lost);
        }
        let (mut tell, answer) = oneshot::channel();
        let cluster = self.clone();
        machine.spawn(async move {
            let _begun = begun;
            let answer = tokio::select! {
                biased;
                answer = service(request) => Some(answer),
                () = tell.closed() => None,
            };
            match answer {
                Some(answer) => drop(tell.send(answer)),
                None => cluster.mark("a request was cut off"),
            }
        });
        let Ok(answer) = answer.await else {
            self.mark("a node went down with a request");
            return Err(CallError::Lost);
        };
        sleep_us(fate.back_us).await;
        if fate.answer_lost {
            self.mark("an answer was lost");
            sleep_us(self.in_proportion(SILENCE_US)).await;
            return Err(CallError::Lost);
        }
        Ok(answer)
    }

    fn draw_fate(&self) -> Fate {
        let mut guard = self.world();
        let world = &mut *guard;
        let (swarm, draw, calm) = (&world.plan.swarm, &mut world.calls, world.calm);
        let mut delay_us = || {
            let base_us = 1 + draw.below(2 * u64::from(swarm.delay_us) + 1);
            let late = draw.chance(swarm.tail_ppm);
            let late_us = draw.below(u64::from(swarm.tail_us) + 1);
            match (calm, late) {
                (true, _) => base_us.min(1_000),
                (false, true) => base_us + late_us,
                (false, false) => base_us,
            }
        };
        let (there_us, back_us) = (delay_us(), delay_us());
        let mut lost = || draw.chance(swarm.loss_ppm / 3) && !calm;
        let (no_connection, request_lost, answer_lost) = (lost(), lost(), lost());
        Fate { there_us, back_us, no_connection, request_lost, answer_lost }
    }
}

/// Counts the requests that a node works on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests(Arc<AtomicUsize>);

impl Requests {
    /// Counts one more request, until the returned guard is dropped.
    pub fn begin(&self) -> Request {
        self.0.fetch_add(1, Ordering::Relaxed);
        Request(self.clone())
    }

    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A guard for one request that a node works on.
pub(crate) struct Request(Requests);

impl Drop for Request {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
