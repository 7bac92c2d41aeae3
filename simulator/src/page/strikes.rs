//! Faults that struck, with how long they lasted, packed into rows that do not overlap.

use super::words;
use crate::plan::{Fault, FaultKind};
use crate::timeline::{Timeline, What};

/// Maximum number of rows. Faults that fit nowhere share the last row.
const ROWS_MAX: usize = 6;

pub(super) struct Strike {
    pub fault: Fault,
    pub from_us: u64,
    pub until_us: u64,
    pub row: usize,
    pub text: String,
}

/// The faults of a run, by time. Two faults in a row are at least `apart_us` apart, so that their
/// names fit.
pub(super) fn strikes(timeline: &Timeline, end_us: u64, apart_us: u64) -> Vec<Strike> {
    let is_calm = |what: &What| matches!(what, What::Calm);
    let calm_us = timeline.moments.iter().find(|moment| is_calm(&moment.what));
    let calm_us = calm_us.map_or(end_us, |moment| moment.at_us.min(end_us));
    let mut rows_until = Vec::new();
    let mut strikes = Vec::new();
    for moment in &timeline.moments {
        let What::Fault(fault) = moment.what else { continue };
        let from_us = moment.at_us;
        let lasts_us = match fault.kind {
            FaultKind::Clock => u64::MAX,
            FaultKind::SyncError
            | FaultKind::IoError
            | FaultKind::CrashAt
            | FaultKind::WallJump
            | FaultKind::ClockBack
            | FaultKind::Transfer
            | FaultKind::Members
            | FaultKind::Replace
            | FaultKind::SnapshotRot => 0,
            _ => fault.amount,
        };
        // A pause may last beyond the end of the faults; all others end there.
        let latest_us = match fault.kind {
            FaultKind::Pause => end_us,
            _ => calm_us.max(from_us),
        };
        let until_us = from_us.saturating_add(lasts_us).min(latest_us).max(from_us);
        let free = rows_until.iter().position(|until: &u64| *until <= from_us);
        let row = free.unwrap_or(rows_until.len()).min(ROWS_MAX - 1);
        if row == rows_until.len() {
            rows_until.push(0);
        }
        rows_until[row] = until_us.max(from_us + apart_us);
        let text = words::fault(&fault, timeline.nodes);
        strikes.push(Strike { fault, from_us, until_us, row, text });
    }
    strikes
}

pub(super) fn rows(strikes: &[Strike]) -> usize {
    strikes.iter().map(|strike| strike.row + 1).max().unwrap_or(0)
}

impl Strike {
    /// Whether the lane of a node is marked while it lasts.
    pub fn marks(&self, node: u64, nodes: u64) -> Option<&'static str> {
        let at = self.fault.node % nodes == node;
        let inside = self.fault.node >> node & 1 == 1;
        match self.fault.kind {
            FaultKind::Isolate | FaultKind::Deaf | FaultKind::Mute => at.then_some("cut"),
            FaultKind::Split => inside.then_some("cut"),
            FaultKind::Bridge | FaultKind::Ring => Some("cut"),
            FaultKind::Pause => at.then_some("paused"),
            FaultKind::Full => at.then_some("full"),
            FaultKind::Stall => at.then_some("disk hangs"),
            FaultKind::Slow => at.then_some("slow disk"),
            _ => None,
        }
    }
}
