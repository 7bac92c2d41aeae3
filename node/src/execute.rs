//! Getting a command done on a leader.
//!
//! A command that has certainly not been done is proposed again for a while, so that an election is
//! a pause and not an error. A command that may have been done is never repeated.

use crate::{ExecuteError, Leader, NotDone};
use bytes::Bytes;
use driver::{Clock, DriverStatus, Handle, Outcome, ProposeError, StateMachine, StopReason};
use std::time::Duration;

/// The pause between two looks for a leader.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The leader that the node knows.
pub(crate) fn leader(status: &DriverStatus) -> Option<Leader> {
    let id = status.raft.leader?;
    let member = status.raft.membership.members.get(&id)?;
    Some(Leader {
        id,
        peer_address: member.peer_address.clone(),
        client_address: member.client_address.clone(),
    })
}

/// Executes a command. Waits for a leader for at most `wait`.
pub(crate) async fn execute<S: StateMachine>(
    handle: &Handle<S>,
    clock: &dyn Clock,
    command: Bytes,
    wait: Duration,
) -> Result<Bytes, ExecuteError> {
    let began_ns = clock.now().monotonic_ns;
    loop {
        let why = match handle.propose(command.clone()).await {
            Ok(proposal) => match proposal.done.await {
                Ok(answer) => return Ok(answer),
                Err(Outcome::Unknown) => {
                    return Err(ExecuteError::Unknown { leader: leader(&handle.status()) });
                }
                // Another leader took over.
                Err(Outcome::NotDone) => NotDone::NoLeader,
            },
            Err(ProposeError::NotLeader { leader: Some(_) }) => {
                return Err(not_done(handle, NotDone::NotLeader));
            }
            Err(ProposeError::NotLeader { leader: None }) => NotDone::NoLeader,
            // The leader steps down soon, and another node may have room.
            Err(ProposeError::ReadOnly { reason }) => NotDone::ReadOnly { reason },
            Err(ProposeError::TooLarge { limit_bytes }) => {
                return Err(not_done(handle, NotDone::TooLarge { limit_bytes }));
            }
            Err(ProposeError::Stopped) => {
                let reason = handle.status().stopped.clone().unwrap_or(StopReason::Shutdown);
                return Err(not_done(handle, NotDone::Stopped(reason)));
            }
            Err(_) => return Err(not_done(handle, NotDone::Busy)),
        };
        let passed_ns = clock.now().monotonic_ns.saturating_sub(began_ns);
        if Duration::from_nanos(passed_ns) + LOOK_EVERY > wait {
            return Err(not_done(handle, why));
        }
        clock.sleep(LOOK_EVERY).await;
    }
}

fn not_done<S: StateMachine>(handle: &Handle<S>, why: NotDone) -> ExecuteError {
    ExecuteError::NotDone { why, leader: leader(&handle.status()) }
}
