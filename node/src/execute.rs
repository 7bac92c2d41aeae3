//! Executes a command, on any node.
//!
//! The driver proposes it if this node leads, and otherwise forwards it to the leader. A command
//! that was certainly not done is proposed again for a while, so that an election is a pause and
//! not an error. A command that may have been done is repeated in a session only, which executes it
//! once.

use crate::{ExecuteError, Leader, NotDone};
use bytes::Bytes;
use driver::{Clock, DriverStatus, Handle, ProposeError, StateMachine, StopReason};
use std::time::Duration;

/// The pause between two attempts.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long a command waits at most for a disk that has no room, or does not answer. A lack of
/// descriptors or memory is over by then.
const READ_ONLY_WAIT: Duration = Duration::from_secs(1);

/// The leader that the node knows, if that is a member.
pub(crate) fn leader(status: &DriverStatus) -> Option<Leader> {
    let id = status.raft.leader?;
    let member = status.raft.membership.members.get(&id)?;
    Some(Leader {
        id,
        peer_address: member.peer_address.clone(),
        client_address: member.client_address.clone(),
    })
}

/// Executes a command. Tries again for at most `wait`, for instance while there is no leader.
pub(crate) async fn execute<S: StateMachine>(
    handle: &Handle<S>,
    clock: &dyn Clock,
    command: Bytes,
    wait: Duration,
) -> Result<Bytes, ExecuteError> {
    patiently(handle, clock, wait, || handle.execute(command.clone())).await
}

/// Calls `attempt` until it is done or the outcome is unknown, or until `wait` is over.
pub(crate) async fn patiently<S, T, F>(
    handle: &Handle<S>,
    clock: &dyn Clock,
    wait: Duration,
    attempt: impl Fn() -> F,
) -> Result<T, ExecuteError>
where
    S: StateMachine,
    F: Future<Output = Result<T, driver::AttemptError>>,
{
    let began_ns = clock.now().monotonic_ns;
    loop {
        let refused = match attempt().await {
            Ok(answer) => return Ok(answer),
            Err(driver::AttemptError::Unknown) => {
                return Err(ExecuteError::Unknown { leader: leader(&handle.status()) });
            }
            Err(driver::AttemptError::Session(error)) => return Err(error.into()),
            // Another node has become leader.
            Err(driver::AttemptError::NotDone) => ProposeError::NotLeader { leader: None },
            Err(driver::AttemptError::Refused(error)) => error,
        };
        let (why, wait) = match refused {
            ProposeError::NotLeader { .. } => (NotDone::NoLeader, wait),
            ProposeError::ReadOnly { reason } => {
                (NotDone::ReadOnly { reason }, wait.min(READ_ONLY_WAIT))
            }
            ProposeError::TooLarge { limit_bytes } => {
                return Err(not_done(handle, NotDone::TooLarge { limit_bytes }));
            }
            ProposeError::Stopped => {
                let reason = handle.status().stopped.clone().unwrap_or(StopReason::Shutdown);
                return Err(not_done(handle, NotDone::Stopped(reason)));
            }
            _ => return Err(not_done(handle, NotDone::Busy)),
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
