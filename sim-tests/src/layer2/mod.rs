//! Layer 2: whole nodes of the key-value store, except for their sockets, and clients that use both
//! APIs, on simulated time, network and disk.

mod answers;
mod app;
mod batch;
mod clients;
mod compat;
mod conditions;
mod history;
mod last;
mod replay;
mod served;
mod store;
mod values;
mod wires;

pub use batch::{Batch, hunt};
pub use store::Store;
pub use transport_sim::Run;

use simulator::page::page;
use simulator::{Failed, Plan};
use transport_sim::{Limits, simulate_for};

/// The command that repeats the tests of this layer; `SIM_SEED` or `SIM_PLAN` is set before it.
const COMMAND: &str = "SIM_LAYER=2 cargo test -p sim-tests";

/// The regressions file: plans that once broke a promise.
const REGRESSIONS: &str = "sim-tests/regressions/layer2.txt";

/// Runs a plan.
pub fn run(plan: &Plan) -> Run {
    run_for(plan, false, u64::MAX)
}

fn run_for(plan: &Plan, record: bool, events_max: u64) -> Run {
    simulate_for(plan, Store::new(plan), Limits { record, events_max })
}

/// A recorded run of a plan, and the page with its picture.
pub fn drawn(plan: &Plan) -> (simulator::Run, String) {
    let run = run_for(plan, true, u64::MAX).into();
    let page = page(plan, &run, &[format!("SIM_PLAN='{plan}' {COMMAND}")]);
    (run, page)
}

/// The report of a plan whose run `broken` broke a promise, with a smaller plan and a page.
pub fn failure(plan: &Plan, broken: &Run) -> Failed {
    let told = crate::told(plan, broken.violation.as_ref(), COMMAND, REGRESSIONS);
    Failed::new(plan, &broken.clone().into(), told, |plan, record, events_max| {
        run_for(plan, record, events_max).into()
    })
}

/// The events that a batch of two hundred runs must have seen. Those that only one run in a hundred
/// sees are left out.
pub const EXPECTED: &[&str] = &[
    "a client followed a redirect",
    "a command was done",
    "a connection broke",
    "a connection died without a sign",
    "a connection was refused",
    "a crash met a write",
    "a disk was full",
    "a disk was wiped",
    "a key was removed",
    "a leader gave way to a preferred node",
    "a leader was elected",
    "a listing was read",
    "a log rotted",
    "a message arrived twice",
    "a message for an earlier life arrived",
    "a node crashed",
    "a cluster bootstrapped itself",
    "a node crashed at an awkward moment",
    "a node restarted at another address",
    "a node restarted from a snapshot",
    "a node was paused",
    "a node went down with a request",
    "a process ended",
    "a read was served",
    "a read with a bound on its age was served",
    "a request was cut off",
    "a write was forwarded",
    "a request was lost",
    "a snapshot was cut off on its way",
    "a snapshot was delivered",
    "a snapshot was installed",
    "a stream was cut off within a frame",
    "a sync failed and the node stopped",
    "a wiped founder was refused",
    "a wiped node joined",
    "a wiped node was added again",
    "a write was certainly not done",
    "a write was torn",
    "an answer was lost",
    "an operator declared other voters",
    "answer 304",
    "answer 404",
    "answer 408",
    "answer 410",
    "answer 412",
    "answer 503",
    "leaders changed",
    "links were cut",
    "nobody answered a connection",
    "nobody knows of a write",
    "nodes talked over sockets",
    "other voters vote",
    "the cluster came back",
    "the new address of a node was declared",
    "the power of a founder failed",
];
