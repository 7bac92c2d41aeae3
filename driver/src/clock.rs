//! Time, as the driver is given it.
//!
//! The driver reads no clock and sets no timer of its own: a simulation hands in simulated time.

use raft::Now;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// A pause; it ends when the time is over.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Tells the time and waits.
pub trait Clock: Send + Sync + 'static {
    /// The time at this moment.
    fn now(&self) -> Now;
    /// Ends after `duration`.
    fn sleep(&self, duration: Duration) -> Sleep;
    /// Lets other threads run that are ready to. The core loop calls it when something has arrived,
    /// before it takes what has arrived: what other threads are about to send then shares the turn,
    /// the append and the sync. Does nothing unless it is implemented.
    fn give_way(&self) {}
}
