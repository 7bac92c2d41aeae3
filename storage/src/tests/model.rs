//! The log compared with a simple model: a base, a Vec of entries, a hard state.

use super::*;
use crate::log::AppendError;
use proptest::prelude::*;

/// The expected state of the log.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub hard_state: HardState,
    pub snapshot: Snapshot,
    pub entries: Vec<Entry>,
}

/// An operation on the log. Numbers that are too large are reduced.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// Replaces the last `replaced` entries by `count` entries of `len` bytes.
    Write { replaced: u64, count: u64, len: usize },
    /// Enters the next term, with this vote.
    Vote { vote: Option<u64> },
    /// Takes a snapshot that covers all but the last `kept` entries.
    Compact { kept: u64, count: u64 },
    /// Replaces the log by a snapshot that is `ahead` of its end.
    Reset { ahead: u64, count: u64 },
}

/// One write, as the core would order it.
#[derive(Debug)]
pub(super) struct Planned {
    hard_state: HardState,
    log_start: Option<LogStart>,
    entries: Vec<Entry>,
}

impl Planned {
    pub fn append_to<D: Disk>(&self, log: &mut Log<D>) -> Result<(), AppendError> {
        let (hard_state, log_start) = (self.hard_state, self.log_start.as_ref());
        // In two slices, as entries in memory may be.
        let (one, other) = self.entries.split_at(self.entries.len() / 2);
        log.append(BatchRef { hard_state, log_start, entries: &[one, other] })
    }
}

impl Model {
    pub fn new() -> Self {
        let restored = Restored::initial(snapshot(LogId::ZERO));
        Model {
            hard_state: restored.hard_state,
            snapshot: restored.snapshot,
            entries: restored.entries,
        }
    }

    fn last(&self) -> LogId {
        self.entries.last().map_or(self.snapshot.last, |entry| entry.id)
    }

    pub fn plan(&self, op: &Op) -> Planned {
        let mut hard_state = self.hard_state;
        let (mut log_start, mut entries) = (None, Vec::new());
        let mut append = |from: u64, count: u64, term: u64, len: usize| {
            entries = (from..from + count).map(|index| entry(index, term, len)).collect();
        };
        let (first, last) = (self.snapshot.last.index.0 + 1, self.last().index.0);
        match *op {
            Op::Write { replaced, count, len } => {
                let from = (last + 1).saturating_sub(replaced).max(first);
                if from <= last || hard_state.term == Term(0) {
                    hard_state = hard(hard_state.term.0 + 1, None);
                }
                append(from, count, hard_state.term.0, len);
            }
            Op::Vote { vote } => hard_state = hard(hard_state.term.0 + 1, vote),
            Op::Compact { kept, count } => {
                if let Some(at) = self.entries.len().checked_sub(kept as usize + 1) {
                    log_start = Some(LogStart::Compact(snapshot(self.entries[at].id)));
                }
                hard_state.term = hard_state.term.max(Term(1));
                append(last + 1, count, hard_state.term.0, 100);
            }
            Op::Reset { ahead, count } => {
                hard_state = hard(hard_state.term.0 + 1, None);
                let to = last + 1 + ahead;
                log_start = Some(LogStart::Reset(snapshot(LogId::new(to, hard_state.term.0))));
                append(to + 1, count, hard_state.term.0, 100);
            }
        }
        Planned { hard_state, log_start, entries }
    }

    pub fn apply(&mut self, planned: &Planned) {
        self.hard_state = planned.hard_state;
        if let Some(log_start) = &planned.log_start {
            self.snapshot = log_start.snapshot().clone();
            match log_start {
                LogStart::Compact(to) => {
                    self.entries.retain(|entry| entry.id.index > to.last.index)
                }
                LogStart::Reset(_) => self.entries.clear(),
            }
        }
        if let Some(first) = planned.entries.first() {
            self.entries.retain(|entry| entry.id.index < first.id.index);
        }
        self.entries.extend(planned.entries.iter().cloned());
    }

    pub fn differs_from(&self, restored: &Restored) -> Option<String> {
        let same = restored.hard_state == self.hard_state
            && restored.snapshot == self.snapshot
            && restored.entries == self.entries;
        (!same).then(|| {
            let of = |hard: &HardState, base: &Snapshot, entries: &[Entry]| {
                let ids: Vec<_> = entries.iter().map(|entry| entry.id.to_string()).collect();
                format!("{hard:?}, {} and then {}", base.last, ids.join(" "))
            };
            let found = of(&restored.hard_state, &restored.snapshot, &restored.entries);
            format!("{found}\ninstead of {}", of(&self.hard_state, &self.snapshot, &self.entries))
        })
    }
}

pub(super) fn any_op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![4 => 1..300usize, 2 => 3_000..5_000usize, 1 => 17_000..40_000usize];
    prop_oneof![
        6 => (0..1u64, 1..6u64, len.clone())
            .prop_map(|(replaced, count, len)| Op::Write { replaced, count, len }),
        2 => (1..8u64, 0..6u64, len)
            .prop_map(|(replaced, count, len)| Op::Write { replaced, count, len }),
        1 => proptest::option::of(1..4u64).prop_map(|vote| Op::Vote { vote }),
        2 => (0..5u64, 0..3u64).prop_map(|(kept, count)| Op::Compact { kept, count }),
        1 => (0..9u64, 0..3u64).prop_map(|(ahead, count)| Op::Reset { ahead, count }),
    ]
}

/// The way in which a process ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Close,
    Kill,
    PowerFailure,
}

fn any_end() -> impl Strategy<Value = Option<End>> {
    prop_oneof![
        4 => Just(None),
        1 => Just(Some(End::Close)),
        1 => Just(Some(End::Kill)),
        1 => Just(Some(End::PowerFailure)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_log_restores_what_a_vec_would_hold(
        steps in proptest::collection::vec((any_op(), any_end()), 1..60),
    ) {
        let disk = MemDisk::new();
        let (mut log, mut model) = (begun(&disk), Model::new());
        for (op, end) in steps {
            let planned = model.plan(&op);
            planned.append_to(&mut log).unwrap();
            model.apply(&planned);
            match end {
                None => continue,
                Some(End::Close) => log.close().unwrap(),
                Some(End::Kill) => drop(log),
                Some(End::PowerFailure) => {
                    drop(log);
                    disk.crash(|_| crate::testing::SectorFate::Lost);
                }
            }
            let (next, found) = reopen(&disk);
            log = next;
            prop_assert_eq!(model.differs_from(&found.restored.unwrap()), None);
            prop_assert_eq!(found.cases.last(), Some(&crate::Case::Clean));
        }
        drop(log);
        let (_, found) = reopen(&disk);
        prop_assert_eq!(model.differs_from(&found.restored.unwrap()), None);
    }
}

#[test]
fn segments_go_round_and_the_log_stays_small() {
    let disk = MemDisk::new();
    let (mut log, mut model) = (begun(&disk), Model::new());
    let mut step = |op: Op| {
        let planned = model.plan(&op);
        planned.append_to(&mut log).unwrap();
        model.apply(&planned);
        log.usage().bytes
    };
    for _ in 0..20 {
        step(Op::Write { replaced: 0, count: 3, len: 2000 });
        step(Op::Compact { kept: 1, count: 0 });
    }
    // From here on no file is created or removed: segments are only renamed.
    disk.set_faults(Box::new(|operation| match operation {
        crate::testing::DiskOperation::Create { .. }
        | crate::testing::DiskOperation::Remove { .. } => {
            panic!("{operation:?}")
        }
        _ => crate::testing::DiskVerdict::Done,
    }));
    for _ in 0..200 {
        step(Op::Write { replaced: 0, count: 3, len: 2000 });
        let bytes = step(Op::Compact { kept: 1, count: 0 });
        assert!(bytes <= 5 * config().segment_bytes, "{bytes}");
    }
    disk.clear_faults();
    drop(log);
    let (_, found) = reopen(&disk);
    assert_eq!(model.differs_from(&found.restored.unwrap()), None);
}
