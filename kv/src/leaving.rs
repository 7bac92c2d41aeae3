//! How far the stop of a node has got, for the requests in progress.
//!
//! A stop has two steps that requests notice. First the node leaves: it is not ready any more, each
//! answer asks the client to close its connection, and a request that waits for something far away
//! (`/wait_commit`, the end of a change of the members) is answered at once. At the end, requests
//! that still have no answer get one that says that their outcome is unknown. It is not a matter of
//! `driver`: what waits here may wait for a disk that hangs.

use tokio::sync::watch;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    #[default]
    Serves,
    Leaves,
    Ends,
}

/// The steps of the stop of a node, all of which are yet to come. Works across runtimes.
#[derive(Debug, Default)]
pub struct Leaving(watch::Sender<Step>);

impl Leaving {
    /// The node is about to stop.
    pub(crate) fn leave(&self) {
        self.0.send_if_modified(|step| {
            let is_first = *step < Step::Leaves;
            *step = (*step).max(Step::Leaves);
            is_first
        });
    }

    /// The time for requests in progress is over.
    pub(crate) fn end(&self) {
        self.0.send_replace(Step::Ends);
    }

    /// Whether the node is about to stop.
    pub(crate) fn has_begun(&self) -> bool {
        *self.0.borrow() >= Step::Leaves
    }

    /// Returns when the node is about to stop.
    pub(crate) async fn begun(&self) {
        self.reached(Step::Leaves).await;
    }

    /// Returns when the time for requests in progress is over.
    pub(crate) async fn ended(&self) {
        self.reached(Step::Ends).await;
    }

    async fn reached(&self, wanted: Step) {
        // The sender is here, so it is not an error.
        let _ = self.0.subscribe().wait_for(|step| *step >= wanted).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn each_step_wakes_those_who_wait_for_it_and_none_is_taken_back() {
        let leaving = Leaving::default();
        let soon = Duration::from_millis(1);
        assert!(!leaving.has_begun());
        assert!(tokio::time::timeout(soon, leaving.begun()).await.is_err());
        tokio::join!(leaving.begun(), async { leaving.leave() });
        assert!(leaving.has_begun());
        assert!(tokio::time::timeout(soon, leaving.ended()).await.is_err());
        tokio::join!(leaving.ended(), async { leaving.end() });
        leaving.leave();
        leaving.ended().await;
    }
}
