//! The scenarios, each with a name. The file of each states the expected behaviour.

mod clocks;
mod disks;
mod files;
mod founding;
mod logs;
mod members;
mod names;
mod network;
mod overload;
mod processes;

use crate::attack::Attack;
use crate::outcome::{Step, Trouble};

/// A kind of attack.
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// The fault, in one line.
    pub about: &'static str,
    /// Whether it is in the short run of the ordinary tests.
    pub quick: bool,
    /// Runs one round of it.
    pub run: fn(&mut Attack<'_>) -> Step,
}

/// An entry of a file's table: name, what happens, whether it is quick, and how.
type Entry = (&'static str, &'static str, bool, fn(&mut Attack<'_>) -> Step);

/// All scenarios, in the order of the table.
pub fn all() -> Vec<Scenario> {
    let tables = [
        processes::SCENARIOS,
        network::SCENARIOS,
        disks::SCENARIOS,
        files::SCENARIOS,
        clocks::SCENARIOS,
        logs::SCENARIOS,
        overload::SCENARIOS,
        names::SCENARIOS,
        founding::SCENARIOS,
        members::SCENARIOS,
    ];
    let entries = tables.into_iter().flatten();
    let scenario = |(name, about, quick, run): &Entry| {
        let (name, about, quick, run) = (*name, *about, *quick, *run);
        Scenario { name, about, quick, run }
    };
    entries.map(scenario).collect()
}

/// The scenarios that lose acknowledged writes whatever the binary does. They test that the checks
/// find the loss.
pub fn must_be_found() -> [Scenario; 2] {
    let older = "all nodes go back to an older copy of their directories";
    let lies = "all nodes lose power, and their disks keep nothing that was synced";
    let (quick, lying) = (false, |attack: &mut Attack<'_>| disks::lose_power_of_all(attack, true));
    [
        Scenario { name: "all-forget", about: older, quick, run: files::all_forget },
        Scenario { name: "disks-lie", about: lies, quick, run: lying },
    ]
}

/// Checks that the term has not changed, so that no leader was lost.
fn same_term(before: Option<u64>, after: Option<u64>) -> Step {
    if before.is_some() && before == after {
        return Ok(());
    }
    Err(Trouble::violated(format!("the term went from {before:?} to {after:?}")))
}
