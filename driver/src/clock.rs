//! The time source of the driver.
//!
//! The driver reads no clock and sets no timer itself, so a simulation can provide simulated time.

use raft::Now;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// A future that ends after some time.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Provides the time and timers.
pub trait Clock: Send + Sync + 'static {
    /// The current time. `monotonic_ns` never decreases, and is never 0, which stands for "unknown"
    /// within the driver. It includes the time in which the machine was suspended: the log time
    /// relies on that.
    fn now(&self) -> Now;
    /// A future that ends after `duration`.
    fn sleep(&self, duration: Duration) -> Sleep;
    /// Lets other ready threads run. The core loop calls it after something has arrived, before it
    /// takes the input. Input that other threads are about to send then shares the turn, the append
    /// and the sync. Does nothing by default.
    fn give_way(&self) {}
}
