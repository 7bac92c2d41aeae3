//! Long computations, on threads of low priority.
//!
//! The threads are there from the start. The blocking threads of a runtime would end when they have
//! nothing to do for some seconds, and where the system permits no new one, a computation would
//! wait for ever.

use crate::api::Offload;
use quorate::threads::change_priority;
use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use tokio::sync::oneshot;

/// The `nice` value of these threads.
const HEAVY: i32 = 10;

/// A computation, and a channel that is closed when it has ended.
type Order = (Box<dyn FnOnce() + Send>, oneshot::Sender<()>);

/// Runs long computations on low-priority threads: one less than there are processors, at least
/// one. The threads end with it.
pub(crate) struct Heavy {
    orders: mpsc::Sender<Order>,
}

impl Heavy {
    /// Starts the threads.
    pub fn start() -> io::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let (orders, ordered) = mpsc::channel();
        let ordered = Arc::new(Mutex::new(ordered));
        for _ in 0..(processors - 1).max(1) {
            let ordered = ordered.clone();
            std::thread::Builder::new().name("http-heavy".into()).spawn(move || {
                change_priority(HEAVY);
                work(&ordered);
            })?;
        }
        Ok(Heavy { orders })
    }
}

fn work(ordered: &Mutex<mpsc::Receiver<Order>>) {
    loop {
        let order = ordered.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((computation, done)) = order else { return };
        // If the request was cancelled, nobody waits for it.
        if !done.is_closed() {
            // The caller finds out that it panicked: there is no result.
            let _ = catch_unwind(AssertUnwindSafe(computation));
        }
    }
}

impl Offload for Heavy {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (done, ended) = oneshot::channel();
        // The threads receive for as long as this exists.
        let _ = self.orders.send((work, done));
        Box::pin(async {
            // It is dropped, not sent.
            let _ = ended.await;
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn after_a_panic_the_next_one_is_computed() {
        let heavy = Heavy::start().unwrap();
        heavy.run(Box::new(|| panic!("on purpose"))).await;
        let (tell, told) = oneshot::channel();
        heavy.run(Box::new(|| tell.send(7).unwrap())).await;
        assert_eq!(told.await, Ok(7));
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_not_computed() {
        let heavy = Heavy::start().unwrap();
        let (tell, mut told) = oneshot::channel::<u8>();
        let (go, wait) = mpsc::channel::<()>();
        let threads = std::thread::available_parallelism().unwrap().get();
        let go_on = Arc::new(Mutex::new(wait));
        let busy: Vec<_> = (0..threads)
            .map(|_| {
                let go_on = go_on.clone();
                heavy.run(Box::new(move || {
                    let _ = go_on.lock().unwrap().recv();
                }))
            })
            .collect();
        drop(heavy.run(Box::new(|| tell.send(7).unwrap())));
        drop(go);
        for one in busy {
            one.await;
        }
        heavy.run(Box::new(|| ())).await;
        assert_eq!(told.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}
