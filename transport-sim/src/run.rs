//! A run, from the plan to its result.

use crate::app::App;
use crate::cluster::Cluster;
use crate::time::{self, sleep_us};
use crate::world::{Limits, World};
use madsim::runtime::Handle as Executor;
use simulator::checks::{Check, Violation};
use simulator::plan::Plan;
use simulator::{Marks, Timeline, What};
use std::sync::{Arc, Mutex, PoisonError};

/// The check that a panic breaks.
const PANICS: Check = Check::NothingPanics;

/// The result of a run.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// The promise that was broken, if one was.
    pub violation: Option<Violation>,
    /// Number of messages between nodes.
    pub messages: u64,
    /// Number of events.
    pub events: u64,
    /// Simulated time, in microseconds.
    pub time_us: u64,
    /// A hash of all events in order: equal in two runs of the same plan.
    pub trace: u64,
    /// How often each noteworthy event happened.
    pub marks: Marks,
    /// The recording for the page; empty unless it was requested.
    pub timeline: Timeline,
}

/// Runs a plan to its end or to the first broken promise, on a thread of its own.
pub fn simulate<A: App>(plan: &Plan, app: A) -> Run {
    simulate_for(plan, app, Limits { record: false, events_max: u64::MAX })
}

/// Runs a plan with options: whether to record it, and the maximum number of events. Recording does
/// not change the run.
pub fn simulate_for<A: App>(plan: &Plan, app: A, limits: Limits) -> Run {
    let (plan, seed) = (plan.clone(), plan.seed);
    let running = Arc::new(Mutex::new(None));
    let known = running.clone();
    let known = move |cluster| *known.lock().unwrap_or_else(PoisonError::into_inner) = cluster;
    let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        time::run(seed, move || async move {
            let cluster = Cluster::new(&plan, app, limits);
            known(Some(cluster.clone()));
            let run = cluster.run().await;
            known(None);
            run
        })
    }));
    run.unwrap_or_else(|panic| {
        let left: Option<Cluster<A>> =
            running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let run = left.map(|cluster| {
            let run = cluster.world().panicked();
            // Its tasks refer to one another and cannot be dropped without the runtime, which is
            // gone.
            std::mem::forget(cluster);
            run
        });
        let violation = Some(Violation::new(PANICS, (), said(panic.as_ref())));
        Run { violation, ..run.unwrap_or_default() }
    })
}

impl<A: App> World<A> {
    /// Ends the run if it has not ended, and returns its result.
    fn comes_to(&mut self) -> Run {
        let (events, time_us) = self.ended.unwrap_or_default();
        Run {
            violation: self.violation.clone(),
            messages: self.messages,
            events,
            time_us,
            trace: self.trace,
            marks: self.marks.clone(),
            timeline: std::mem::take(&mut self.timeline),
        }
    }

    /// The result after a panic. The runtime is gone then, so the run ends at the time of the
    /// latest event.
    fn panicked(&mut self) -> Run {
        self.timeline.add_to_all(What::Violation(PANICS));
        self.ends_at(self.noted_us);
        self.comes_to()
    }
}

impl From<Run> for simulator::Run {
    fn from(run: Run) -> Self {
        let Run { violation, events, time_us, trace, marks, timeline, messages: _ } = run;
        simulator::Run { violation, events, time_us, trace, marks, timeline }
    }
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

impl<A: App> Cluster<A> {
    async fn run(self) -> Run {
        let phases = async {
            self.found().await?;
            let nodes = self.plan().nodes as usize;
            (0..nodes).for_each(|node| self.start(node));
            self.shared.outside.spawn(self.clone().strike_all());
            self.phases().await
        };
        let broken = tokio::select! {
            biased;
            () = self.shared.ends.notified() => None,
            ended = phases => ended.err(),
        };
        self.broken(broken);
        let run = {
            let mut world = self.world();
            world.ends();
            world.comes_to()
        };
        self.let_go().await;
        run
    }

    /// Ends everything that still runs. Tasks that refer to one another through the clock would
    /// otherwise stay in memory, and a process runs thousands of seeds.
    async fn let_go(&self) {
        let executor = Executor::current();
        executor.kill(self.shared.outside.id());
        let ups: Vec<_> = self.world().hosts.iter_mut().filter_map(|host| host.up.take()).collect();
        ups.iter().for_each(|up| executor.kill(up.machine.id()));
        // Not under the lock: destructors may take it.
        drop(ups);
        sleep_us(1).await;
    }
}
