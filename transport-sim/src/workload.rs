//! Workloads of the `simulator` crate on whole nodes: one workload serves for both layers.

use crate::app::{App, Boot, Service, Started, Task};
use crate::cluster::Cluster;
use crate::time::{now_us, sleep_us};
use bytes::Bytes;
use driver::{Consistency, Outcome as Known, ProposeError};
use raft::NodeId;
use simulator::Violation;
use simulator::random::{Purpose, Stream};
use simulator::timeline::{Ended, shown};
use simulator::{Answered, ClientOutcome, ClientRequest, Erased, ErasedMachine, Workload};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A workload whose clients call a node's [`driver::Handle`].
///
/// ```
/// use simulator::{Plan, RegisterWorkload};
/// use transport_sim::{Calls, simulate};
///
/// let run = simulate(&Plan::from_seed(5), Calls::new(RegisterWorkload::new(4, 0)));
/// assert_eq!(run.violation, None);
/// assert!(run.messages > 0);
/// ```
pub struct Calls {
    workload: Mutex<AnyWorkload>,
}

/// Whole nodes take minutes to compile, so they are not compiled for each workload.
type AnyWorkload = Box<dyn Workload<Machine = ErasedMachine> + Send>;

/// The answer of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Done, with this answer.
    Done(Bytes),
    /// Certainly not done.
    NotDone {
        /// The leader, if the node knows it.
        leader: Option<NodeId>,
    },
    /// Perhaps done, now or later.
    Unknown,
}

impl Calls {
    /// Wraps a workload for [`simulate`](crate::simulate).
    pub fn new(workload: impl Workload + Send + 'static) -> Self {
        Calls { workload: Mutex::new(Box::new(Erased(workload))) }
    }

    fn workload(&self) -> MutexGuard<'_, AnyWorkload> {
        self.workload.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl App for Calls {
    type Machine = ErasedMachine;
    type Request = ClientRequest;
    type Response = Reply;

    fn boot(&self) -> (ErasedMachine, Boot<Self>) {
        let boot = |node: Started<Self>| -> Service<ClientRequest, Reply> {
            Arc::new(move |request| {
                let handle = node.handle.clone();
                Box::pin(async move {
                    match request {
                        ClientRequest::Command(command) => match handle.propose(command).await {
                            Ok(proposal) => match proposal.done.await {
                                Ok(answer) => Reply::Done(answer),
                                Err(Known::NotDone) => Reply::NotDone { leader: None },
                                Err(Known::Unknown) => Reply::Unknown,
                            },
                            Err(ProposeError::NotLeader { leader }) => Reply::NotDone { leader },
                            Err(_) => Reply::NotDone { leader: None },
                        },
                        ClientRequest::Query(query) => {
                            match handle.read(query, Consistency::Linearizable).await {
                                Ok(answer) => Reply::Done(answer),
                                Err(_) => Reply::NotDone { leader: None },
                            }
                        }
                    }
                })
            })
        };
        (self.workload().machine(), Box::new(boot))
    }

    fn asks(&self, request: &ClientRequest) -> (bool, String) {
        request.shown()
    }

    fn answers(&self, reply: &Reply) -> (Ended, String) {
        match reply {
            Reply::Done(answer) => (Ended::Done, shown(answer)),
            Reply::NotDone { .. } => (Ended::NotDone, String::new()),
            Reply::Unknown => (Ended::Unknown, String::new()),
        }
    }

    fn client(self: Arc<Self>, cluster: Cluster<Self>, number: u64) -> Task<()> {
        Box::pin(async move {
            let plan = cluster.plan();
            let mut draw = Stream::new(plan.seed, Purpose::Client, number);
            let mut leader = number % plan.nodes;
            while cluster.think().await {
                let request = self.workload().request(number, &mut draw);
                let begun_us = now_us();
                let anywhere = matches!(request, ClientRequest::Query(_)) || draw.below(10) == 0;
                let any = draw.below(plan.nodes);
                let to = NodeId(if anywhere { any } else { leader });
                let reply = tokio::select! {
                    biased;
                    reply = cluster.call(number, to, request.clone()) => reply,
                    () = sleep_us(plan.swarm.patience_us.into()) => Ok(Reply::Unknown),
                };
                let reply = reply.unwrap_or_else(|error| match error {
                    crate::CallError::NotSent => Reply::NotDone { leader: None },
                    crate::CallError::Lost => Reply::Unknown,
                });
                let outcome = match &reply {
                    Reply::Done(answer) => ClientOutcome::Done(answer),
                    Reply::NotDone { .. } => ClientOutcome::NotDone,
                    Reply::Unknown => ClientOutcome::Unknown,
                };
                leader = match &reply {
                    Reply::Done(_) => leader,
                    Reply::NotDone { leader: Some(leader) } => leader.0,
                    _ => (leader + 1) % plan.nodes,
                };
                self.workload().answered(&Answered {
                    client: number,
                    request: &request,
                    begun_us,
                    ended_us: now_us(),
                    outcome,
                });
                cluster.note(0, number, u64::from(matches!(reply, Reply::Done(_))));
                if !matches!(reply, Reply::Done(_)) {
                    // Backoff, so that clients do not overload a cluster that cannot serve.
                    sleep_us(5_000).await;
                }
            }
        })
    }

    fn invariant(&self, machine: &ErasedMachine) -> Result<(), String> {
        self.workload().invariant(machine)
    }

    fn verdict(self: Arc<Self>, _cluster: Cluster<Self>) -> Task<Result<(), Violation>> {
        Box::pin(std::future::ready(self.workload().verdict()))
    }
}
