//! A user's own log store in the simulator: a small correct one, and mistakes in it.

use raft::{Durable, Entry, HardState, LogStart, Restored, Snapshot, Write};
use simulator::checks::Check;
use simulator::plan::FaultKind;
use simulator::{Failed, MemDisk, RegisterWorkload, Simulation};
use std::io;
use storage::{Disk, DiskFile, LogStore, PersistError, codec};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    /// It renames a file whose content is not synced.
    DoesNotSync,
    /// It does not sync the directory, so the old name may come back.
    DoesNotSyncTheName,
    /// After a full disk its unfinished file is in the way.
    LeavesRubbish,
    /// It does not restore a vote.
    ForgetsTheVote,
}

/// Writes the whole log into a new file at each write, and renames the file.
struct OneFile {
    disk: MemDisk,
    mistake: Mistake,
    state: State,
    failed: bool,
}

type State = (HardState, Snapshot, Vec<Entry>);

const LOG: &str = "log/log";
const NEW: &str = "log/new";

impl OneFile {
    fn open(mistake: Mistake, disk: MemDisk, first: &Snapshot) -> io::Result<(Self, Restored)> {
        disk.create_dir("log")?;
        let names = disk.list("log")?;
        if names.iter().any(|name| NEW.ends_with(name)) {
            disk.remove(NEW)?;
        }
        let mut state = (HardState::default(), first.clone(), Vec::new());
        if names.iter().any(|name| LOG.ends_with(name)) {
            let file = disk.open(LOG)?;
            let mut bytes = vec![0; file.len()? as usize];
            let mut at = 0;
            while at < bytes.len() {
                match file.read_at(at as u64, &mut bytes[at..])? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => at += read,
                }
            }
            state = codec::decode(&bytes).map_err(io::Error::other)?;
        }
        // The name may be there and not durable.
        disk.sync_dir("log")?;
        disk.sync_dir("")?;
        if mistake == Mistake::ForgetsTheVote {
            state.0.vote = None;
        }
        let (hard_state, snapshot, entries) = state.clone();
        let restored = Restored { hard_state, snapshot, entries };
        Ok((OneFile { disk, mistake, state, failed: false }, restored))
    }

    fn replace(&self, state: &State) -> io::Result<()> {
        let mut bytes = Vec::new();
        codec::encode(state, &mut bytes);
        let mut file = self.disk.create(NEW)?;
        file.write_at(0, &bytes)?;
        if self.mistake != Mistake::DoesNotSync {
            file.sync_data()?;
        }
        self.disk.rename(NEW, LOG)?;
        if self.mistake != Mistake::DoesNotSyncTheName {
            self.disk.sync_dir("log")?;
        }
        Ok(())
    }
}

/// The state after a write.
fn after(write: &Write, state: &State) -> State {
    let (_, snapshot, entries) = state;
    let (mut snapshot, mut entries) = (snapshot.clone(), entries.clone());
    match &write.log_start {
        Some(LogStart::Compact(at)) => {
            entries.retain(|entry| entry.id.index > at.last.index);
            snapshot = at.clone();
        }
        Some(LogStart::Reset(at)) => (snapshot, entries) = (at.clone(), Vec::new()),
        None => {}
    }
    if let Some(first) = write.entries.first() {
        entries.retain(|entry| entry.id.index < first.id.index);
        entries.extend(write.entries.iter().cloned());
    }
    (write.hard_state, snapshot, entries)
}

impl LogStore for OneFile {
    fn persist(&mut self, write: Write) -> Result<Durable, PersistError> {
        if self.failed {
            return Err(PersistError::Failed { source: io::Error::other("it failed before") });
        }
        let state = after(&write, &self.state);
        match self.replace(&state) {
            Ok(()) => {
                self.state = state;
                Ok(write.durable())
            }
            Err(source) if source.kind() == io::ErrorKind::StorageFull => {
                if self.mistake != Mistake::LeavesRubbish {
                    let _ = self.disk.remove(NEW);
                }
                Err(PersistError::Full { write: Box::new(write), source })
            }
            Err(source) => {
                self.failed = true;
                Err(PersistError::Failed { source })
            }
        }
    }
}

fn simulation(mistake: Mistake) -> Simulation<simulator::Registers> {
    Simulation::of(|| RegisterWorkload::new(4, 200))
        .log_store(move |disk, first| OneFile::open(mistake, disk, first))
}

fn broken(simulation: &Simulation<simulator::Registers>) -> Failed {
    simulation.check().expect_err("it is broken").failed().expect("a promise is")
}

#[test]
fn a_correct_store_passes_under_every_fault_that_strikes_it() {
    let passed = simulation(Mistake::None).seeds(0..100).run();
    for mark in [
        "a crash met a write",
        "a disk was full",
        "a sync failed and the node stopped",
        "the power failed within an operation of the disk",
        "a snapshot was installed",
    ] {
        assert!(passed.marks.count(mark) > 0, "never: {mark}");
    }
    assert_eq!(passed.marks.count("a log rotted"), 0);
}

#[test]
fn what_is_not_synced_is_found() {
    for mistake in [Mistake::DoesNotSync, Mistake::DoesNotSyncTheName] {
        let failed = broken(&simulation(mistake).seeds(0..20));
        let check = failed.violation.check;
        let is_lost = [Check::DurableMeansDurable, Check::RecoveryIsExact, Check::NodeStartsAgain];
        assert!(is_lost.contains(&check), "{mistake:?}: {failed}");
    }
}

#[test]
fn a_vote_that_is_forgotten_is_found() {
    let failed = broken(&simulation(Mistake::ForgetsTheVote).seeds(0..20));
    let check = failed.violation.check;
    assert!([Check::RecoveryIsExact, Check::DurableMeansDurable].contains(&check), "{failed}");
}

#[test]
fn a_store_that_does_not_go_on_after_a_full_disk_is_found() {
    let simulation = simulation(Mistake::LeavesRubbish).seeds(0..40).faults(&[FaultKind::Full]);
    let failed = broken(&simulation);
    assert_eq!(failed.violation.check, Check::NodeGoesOn, "{failed}");
}
