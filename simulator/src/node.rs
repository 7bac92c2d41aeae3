//! A simulated node: the real core, the real log and snapshots on a simulated disk, and a state
//! machine.

use crate::bounds::Needed;
use crate::checks::Check;
use crate::copies;
use crate::log::{AnyLog, OpenStore, Store};
use crate::observer::has_answer;
use crate::plan::Swarm;
use crate::random::{Purpose, Stream};
use crate::shadow::{Change, Shadow, read};
use crate::violation::{Violation, violation};
use bytes::Bytes;
use driver::{Answer, Replica, SessionNumber, StateMachine, hashed};
use raft::{
    Apply, Config, Incarnation, Index, LogId, Membership, Node, NodeId, Payload, ReadId, Restored,
    Snapshot, TakeSnapshot, Write, entry_hash,
};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use storage::testing::{MemDisk, Operation, Verdict};
use storage::{BaseError, Case, ClusterId, Directory, Log, LogConfig, OpenError, Snapshots};

/// A member of the cluster, running or down.
pub(crate) struct Host<M> {
    /// The log store of a user, if there is one.
    pub store: Option<Store>,
    pub disk: MemDisk,
    pub shadow: Shadow,
    /// The write that was outstanding when it went down. It may or may not be on the disk.
    pub maybe: Option<Change>,
    pub incarnation: Incarnation,
    /// Incremented at every start and every stop. Events for an earlier life are ignored.
    pub life: u64,
    pub up: Option<Running<M>>,
    /// The node processes no event before this time.
    pub paused_until_us: u64,
    pub clock_per_mille: u64,
    /// Simulated time at which the clock last changed its rate, and the clock's reading then.
    clock_since_us: u64,
    clock_us: u64,
    /// Offset of its wall clock from its monotonic clock, which `WallJump` changes.
    pub wall_offset_ms: i64,
    /// Number of durable writes.
    pub writes: u64,
    /// The writes that its log still needs.
    pub needed: Needed,
    /// Planned damage to the log. It takes effect once [`Rotting::at_write`] writes are durable.
    pub rotting: Option<Rotting>,
    /// Set if its next write will be lost after it was reported durable.
    pub losing: Option<Losing>,
    /// Set if its last synced batch will be damaged when the power fails within the next write.
    pub rotting_end: Option<RottingEnd>,
    /// Its data has been damaged at some time: it may know less than before, if it reports the
    /// loss.
    pub rotten: bool,
    /// Its log has been damaged since its last start. Until it has recovered, the contents of its
    /// log are uncertain.
    pub damaged: bool,
    /// Damage has undone a move of the log's base. The snapshot at the previous base may be gone.
    lost_base: bool,
    /// A start failed on a disk error while the log was restarted without its damaged snapshot. The
    /// record of the loss may be durable already.
    base_loss_noted: bool,
    /// A bit of the next command that it applies will flip.
    pub flips: bool,
    /// Its state differs from that of the others after a bit flip: its answers are not used.
    pub flipped: bool,
    /// The entry that it applied wrongly. Snapshots that it takes later are wrong too.
    pub flipped_at: Index,
    /// How it recovered, if the snapshot that its log begins after was lost.
    pub found_base_lost: Option<Case>,
    /// One of its snapshots has been damaged since its last start.
    pub snapshot_rotten: bool,
    /// File and offset that its disk cannot read any more.
    pub unreadable: Option<(String, u64)>,
    /// It was shut down cleanly and has not started since.
    pub closed: bool,
    /// Its disk returns errors.
    pub failing: bool,
    /// Number of disk operations that were made to fail since the last start.
    pub refused: u64,
    /// Its disk is full.
    pub full: bool,
    /// Its disk completes no write before the first of these times, and is slow until the second.
    pub stalled_until_us: u64,
    pub slow_until_us: u64,
    /// For how many ticks in a row its outstanding write has been behind the commit index.
    pub write_ticks: u64,
    /// The full disk refused a write, which will be retried.
    pub tries_again: bool,
    /// Set once the power has failed within an operation of the disk.
    dark: Option<Arc<AtomicBool>>,
    /// Its disk was wiped, and it is no member yet.
    pub waits: bool,
    /// A lasting fault keeps it down, cut off or with a failed disk after the other faults stop.
    pub gone: bool,
    /// It never starts again: damage made it refuse to start, or a lasting fault keeps it down.
    pub dead: bool,
}

/// Damage that will be done to the log. It waits for later writes, so that recovery can distinguish
/// it from a torn write. In the very last write it cannot.
pub(crate) struct Rotting {
    /// Number of durable writes at which the node's power fails and the damage is done.
    pub at_write: u64,
    /// How long the node is down then.
    pub down_us: u64,
    /// The file to damage.
    pub path: String,
    /// Offsets in the file, and the bytes that replace those there.
    pub damage: Vec<(u64, Vec<u8>)>,
    /// The offset that becomes unreadable.
    pub unreadable: Option<u64>,
    /// The beginning of the file when the damage was planned. If the file begins with something
    /// else by then, it was freed or recycled, and no damage is done.
    pub found: Vec<u8>,
    /// The mark that is counted, see [`crate::Marks`].
    pub mark: &'static str,
}

/// The log as it was before a write that will be lost.
pub(crate) struct Losing {
    /// How long the node is down when the loss takes effect.
    pub down_us: u64,
    /// The files of the log, by path.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// The last synced batch, which will be damaged when the power fails within the write after it.
pub(crate) struct RottingEnd {
    /// How long the node is down when the damage is done.
    pub down_us: u64,
    /// The batch, once one was synced.
    pub batch: Option<EndBatch>,
}

/// The last batch that was synced.
pub(crate) struct EndBatch {
    /// The file of the log.
    pub path: String,
    /// The offset of its first block, and its blocks.
    pub offset: usize,
    pub bytes: Vec<u8>,
    /// The content of the mark's file, if the mark covers the batch.
    pub mark: Option<Vec<u8>>,
}

/// A log that was opened, what it has restored, and the snapshots.
type Recovered = (AnyLog, Restored, Snapshots<MemDisk>);

/// A running node.
pub(crate) struct Running<M> {
    pub node: Node,
    pub log: AnyLog,
    pub snapshots: Snapshots<MemDisk>,
    pub replica: Replica<M>,
    /// The last index that the replica has applied.
    pub machine_at: Index,
    pub write: Option<Write>,
    pub apply: Option<Apply>,
    pub snapshot: Option<(TakeSnapshot, Vec<u8>)>,
    /// The index of the latest ordered snapshot, if it is not written yet or could not be written.
    pub ordered: Option<Index>,
    /// The client operation that each proposal and read belongs to.
    pub proposals: BTreeMap<LogId, usize>,
    pub reads: BTreeMap<ReadId, usize>,
    /// The client operation that each command forwarded to the leader belongs to.
    pub forwards: BTreeMap<u64, usize>,
}

pub(crate) fn log_config(swarm: &Swarm) -> LogConfig {
    let segment_bytes = u64::from(swarm.segment_bytes);
    let mut config = LogConfig::default();
    config.segment_bytes = segment_bytes;
    config.recycled_bytes_max = u64::from(swarm.recycled_segments) * segment_bytes;
    config.background = false;
    config
}

fn config(id: u64, swarm: &Swarm, incarnation: Incarnation, life: u64, seed: u64) -> Config {
    let mut config = Config::new(NodeId(id), incarnation, life);
    config.seed = seed;
    config.heartbeat_ticks = swarm.heartbeat_ticks;
    config.election_ticks = swarm.election_ticks;
    config.append_bytes_max = swarm.append_bytes as usize;
    config.write_bytes_max = swarm.write_bytes as usize;
    config.apply_bytes_max = swarm.apply_bytes as usize;
    config.inflight_messages_max = swarm.inflight as usize;
    config.snapshot_log_bytes = swarm.snapshot_bytes as usize;
    config.snapshot_log_bytes_max = swarm.snapshot_bytes_max as usize;
    config.retained_bytes = swarm.retained_bytes as usize;
    config.catch_up_bytes_max = swarm.catch_up_bytes as usize;
    if swarm.clock_ticks > 0 {
        config.clock_ticks = swarm.clock_ticks;
    }
    if swarm.inflight_bytes > 0 {
        config.inflight_bytes_max = swarm.inflight_bytes as usize;
    }
    if swarm.uncommitted_bytes > 0 {
        config.uncommitted_bytes_max = swarm.uncommitted_bytes as usize;
    }
    if swarm.reads_max > 0 {
        config.reads_max = swarm.reads_max as usize;
    }
    config.priority = swarm.priority(id);
    config.lease = swarm.lease(&mut Stream::new(seed, Purpose::Lease, life));
    config
}

/// A disk with an empty log of the library's own that begins with this membership.
fn founded(
    id: u64,
    swarm: &Swarm,
    incarnation: Incarnation,
    membership: Membership,
) -> (MemDisk, Shadow) {
    let disk = MemDisk::new();
    let (directory, _) =
        Directory::open(disk.clone(), log_config(swarm)).expect("an empty disk without faults");
    let Directory::Unclaimed(unclaimed) = directory else { unreachable!("it is empty") };
    let founders: Vec<NodeId> = membership.members.keys().copied().collect();
    let begun = unclaimed
        .announce(NodeId(id), incarnation, &founders)
        .map_err(|error| error.to_string())
        .and_then(|announced| {
            announced.join(ClusterId(1), membership).map_err(|error| error.to_string())
        });
    let member = begun.expect("a disk without faults takes it");
    let (log, restored) = member.into_log();
    drop(log);
    disk.kill();
    (disk, Shadow::new(&restored))
}

impl<M: StateMachine> Host<M> {
    /// A host with an empty disk, whose log begins with this membership.
    pub fn new(
        id: u64,
        swarm: &Swarm,
        incarnation: Incarnation,
        membership: Membership,
        open: Option<OpenStore>,
    ) -> Self {
        let store = open.map(|open| Store { open, first: Snapshot::initial(membership.clone()) });
        let (disk, shadow) = match &store {
            Some(store) => (MemDisk::new(), Shadow::new(&store.empty())),
            None => founded(id, swarm, incarnation, membership),
        };
        Host {
            store,
            shadow,
            disk,
            maybe: None,
            incarnation,
            life: 0,
            up: None,
            paused_until_us: 0,
            clock_per_mille: 1_000,
            clock_since_us: 0,
            clock_us: 0,
            wall_offset_ms: 0,
            writes: 0,
            needed: Needed::default(),
            rotting: None,
            losing: None,
            rotting_end: None,
            rotten: false,
            damaged: false,
            flips: false,
            flipped: false,
            flipped_at: Index(0),
            found_base_lost: None,
            snapshot_rotten: false,
            unreadable: None,
            closed: false,
            failing: false,
            refused: 0,
            lost_base: false,
            base_loss_noted: false,
            full: false,
            stalled_until_us: 0,
            slow_until_us: 0,
            write_ticks: 0,
            tries_again: false,
            dark: None,
            waits: false,
            gone: false,
            dead: false,
        }
    }

    /// The reading of its monotonic clock at this simulated time. It never goes back, whatever its
    /// rate.
    pub fn clock_us(&self, now_us: u64) -> u64 {
        self.clock_us + (now_us - self.clock_since_us) * self.clock_per_mille / 1_000
    }

    /// Sets the rate of its clock from now on, in per mille of simulated time.
    pub fn set_clock_rate(&mut self, now_us: u64, per_mille: u64) {
        self.clock_us = self.clock_us(now_us);
        self.clock_since_us = now_us;
        self.clock_per_mille = per_mille;
    }

    /// Makes the power fail within this operation of the disk, counted from now without reads. Of a
    /// write, `done_bytes` bytes are done.
    pub fn darken_at(&mut self, mut operations: u64, done_bytes: usize) {
        let dark = Arc::new(AtomicBool::new(false));
        self.dark = Some(dark.clone());
        self.failing = true;
        self.disk.set_faults(Box::new(move |operation| {
            if matches!(operation, Operation::Read { .. }) {
                return Verdict::Done;
            }
            if operations > 0 {
                operations -= 1;
                return Verdict::Done;
            }
            let first = !dark.swap(true, Ordering::Relaxed);
            let done_bytes = if first { done_bytes } else { 0 };
            Verdict::Fails { kind: io::ErrorKind::Other, done_bytes }
        }));
    }

    /// A write has become durable, and is in the shadow.
    pub fn written(&mut self, change: &Change) {
        self.writes += 1;
        self.needed.add(change, self.shadow.base.last.index);
    }

    /// Whether no damage is planned.
    pub fn is_whole(&self) -> bool {
        self.rotting.is_none() && self.losing.is_none() && self.rotting_end.is_none()
    }

    /// Whether the power has failed within an operation of the disk.
    pub fn is_dark(&self) -> bool {
        self.dark.as_ref().is_some_and(|dark| dark.load(Ordering::Relaxed))
    }

    /// Ends the faults of the disk, except that an unreadable sector stays unreadable.
    pub fn restore_disk(&mut self) {
        self.dark = None;
        self.failing = false;
        self.disk.clear_faults();
        let Some((file, at)) = self.unreadable.clone() else { return };
        self.disk.set_faults(Box::new(move |operation| match operation {
            Operation::Read { path, offset, len }
                if path == file && offset <= at && at < offset + len as u64 =>
            {
                Verdict::Fails { kind: io::ErrorKind::Other, done_bytes: 0 }
            }
            _ => Verdict::Done,
        }));
    }

    /// Starts the node from its disk. It must recover exactly what was reported durable, with or
    /// without the write that was outstanding. It may recover less only if the disk was damaged,
    /// and must then report the loss. Returns whether the node runs.
    pub fn start(
        &mut self,
        id: u64,
        swarm: &Swarm,
        seed: u64,
        machine: M,
    ) -> Result<bool, Violation> {
        let Some((log, restored, snapshots)) = self.open_log(id, swarm)? else {
            return Ok(false);
        };
        let base = restored.snapshot.last;
        let mut replica = Replica::new(machine);
        let mut snapshot_bytes = 0;
        if base != LogId::ZERO {
            match restore(id, &snapshots, &restored.snapshot, &mut replica)? {
                Restoration::Done { bytes } => snapshot_bytes = bytes,
                Restoration::Unreadable(_) if self.failing => return Ok(false),
                Restoration::Unreadable(detail) => return violation(MISSING, NodeId(id), detail),
            }
        }
        if snapshots.remove_before(base, &[]).is_err() && self.failing {
            return Ok(false);
        }
        self.life += 1;
        self.closed = false;
        // An unreadable sector stays unreadable, whatever is written there, until its file is
        // removed.
        let paths = self.disk.paths();
        self.unreadable.take_if(|(file, _)| !paths.contains(file));
        self.damaged = self.unreadable.is_some();
        // The snapshot at the base has just been read, and no other one will be.
        (self.lost_base, self.snapshot_rotten) = (false, false);
        self.base_loss_noted = false;
        self.maybe = None;
        self.refused = 0;
        self.needed.starts(log.used_bytes().unwrap_or(0), self.shadow.last().index);
        let config = config(id, swarm, self.incarnation, self.life, seed ^ self.life << 8);
        let mut node = Node::new(config, restored).map_err(|error| {
            Violation::new(Check::NodeStartsAgain, NodeId(id), error.to_string())
        })?;
        node.set_snapshot_bytes(snapshot_bytes);
        self.up = Some(Running {
            node,
            log,
            snapshots,
            replica,
            machine_at: base.index,
            write: None,
            apply: None,
            snapshot: None,
            ordered: None,
            proposals: BTreeMap::new(),
            reads: BTreeMap::new(),
            forwards: BTreeMap::new(),
        });
        Ok(true)
    }

    /// Opens its log and its snapshots, and checks what was recovered. `None` if it cannot start
    /// now for a reason that is not the log's.
    fn open_log(&mut self, id: u64, swarm: &Swarm) -> Result<Option<Recovered>, Violation> {
        if let Some(store) = self.store.clone() {
            let (log, restored) = match store.open(self.disk.clone()) {
                Ok(opened) => opened,
                Err(_) if self.failing || self.full => return Ok(None),
                Err(error) => {
                    let detail = format!("node {id}: {error}");
                    return violation(Check::NodeStartsAgain, NodeId(id), detail);
                }
            };
            self.compare(id, &restored)?;
            let snapshots = self.open_snapshots(id)?;
            return Ok(snapshots.map(|snapshots| (AnyLog::Users(log), restored, snapshots)));
        }
        let directory = match Directory::open(self.disk.clone(), log_config(swarm)) {
            Ok((directory, _)) => directory,
            // The disk still fails: the operator sees the error and starts the node again.
            Err(_) if self.failing || self.full => return Ok(None),
            // After damage a start may fail if all of the log is gone, or if the disk cannot read
            // the block where the latest batch may be. Other damage to a part of the log must not
            // prevent a start.
            Err(OpenError::LogGone) if self.damaged => {
                self.dead = true;
                return Ok(None);
            }
            Err(OpenError::Unreadable { .. }) if self.unreadable.is_some() => {
                self.dead = true;
                return Ok(None);
            }
            Err(error) => {
                return violation(
                    Check::NodeStartsAgain,
                    NodeId(id),
                    format!("node {id}: {error}"),
                );
            }
        };
        let Directory::Member(mut member) = directory else {
            if self.damaged {
                self.dead = true;
                return Ok(None);
            }
            return violation(
                Check::RecoveryIsExact,
                NodeId(id),
                format!("node {id}: nothing is left"),
            );
        };
        let meant = self.shadow.base.last;
        self.compare(id, member.restored())?;
        self.lost_base |= self.damaged && member.restored().snapshot.last != meant;
        let Some(snapshots) = self.open_snapshots(id)? else { return Ok(None) };
        let case = match member.check_base(&snapshots) {
            Ok(case) => case,
            Err(_) if self.failing || self.full => {
                self.base_loss_noted |= self.snapshot_rotten || self.lost_base;
                return Ok(None);
            }
            Err(BaseError::NoPeers(_)) if self.snapshot_rotten => {
                self.dead = true;
                return Ok(None);
            }
            Err(error) => {
                return violation(
                    Check::NodeStartsAgain,
                    NodeId(id),
                    format!("node {id}: {error}"),
                );
            }
        };
        let (log, restored) = member.into_log();
        self.base_case(id, case, &restored)?;
        Ok(Some((AnyLog::Own(Box::new(log)), restored, snapshots)))
    }

    fn open_snapshots(&self, id: u64) -> Result<Option<Snapshots<MemDisk>>, Violation> {
        match Snapshots::new(self.disk.clone()) {
            Ok(snapshots) => Ok(Some(snapshots)),
            Err(_) if self.failing => Ok(None),
            Err(error) => {
                violation(Check::NodeStartsAgain, NodeId(id), format!("node {id}: {error}"))
            }
        }
    }

    /// Checks that a power failure at this moment would leave everything that was reported durable.
    /// Copies the disk, drops everything unsynced from the copy, and reads the log from it.
    pub fn audit(&self, id: u64, swarm: &Swarm) -> Result<(), Violation> {
        if self.damaged || self.rotting.is_some() || self.snapshot_rotten || self.is_dark() {
            return Ok(());
        }
        match &self.store {
            Some(store) => self.shadow.is_durable_as(id as usize, &self.disk, |copy| {
                store.open(copy).map(|(_, restored)| Some(restored))
            }),
            None => self.shadow.is_durable(id as usize, &self.disk, log_config(swarm)),
        }
    }

    /// Whether the log would still be recovered in full after this damage to the disk.
    pub fn is_whole_with(&self, swarm: &Swarm, damage: impl FnOnce(&MemDisk)) -> bool {
        let copy = self.disk.fork();
        damage(&copy);
        let opened = Log::open(copy, log_config(swarm));
        let restored = opened.ok().and_then(|(_, recovery)| recovery.restored);
        restored.is_some_and(|restored| self.shadow.difference(&restored).is_none())
    }

    /// Checks a node that reports the snapshot at its base as lost: there must have been damage,
    /// and the log must not lose more than is reported. Its disk must hold the recovered state from
    /// now on.
    fn base_case(
        &mut self,
        id: u64,
        case: Option<Case>,
        restored: &Restored,
    ) -> Result<(), Violation> {
        let Some(case) = case else { return Ok(()) };
        if !self.snapshot_rotten && !self.lost_base {
            return violation(MISSING, NodeId(id), format!("node {id}: {case}"));
        }
        let last = restored.entries.last().map_or(restored.snapshot.last, |entry| entry.id);
        // A later snapshot covers everything that the log before it held.
        let known = restored.hard_state.lost.is_some_and(|lost| lost >= self.shadow.last());
        if last < self.shadow.last() && !known {
            let detail = format!("node {id}: {case}; ends with {last}");
            return violation(Check::RecoveryIsExact, NodeId(id), detail);
        }
        if last < self.shadow.last() {
            self.rotten = true;
        }
        self.found_base_lost = Some(case);
        self.shadow = Shadow::new(restored);
        Ok(())
    }

    fn compare(&mut self, id: u64, restored: &Restored) -> Result<(), Violation> {
        let may_lose = (self.damaged, self.base_loss_noted);
        let lost = self.shadow.recovers(id as usize, self.maybe.as_ref(), may_lose, restored)?;
        self.rotten |= lost && self.base_loss_noted;
        Ok(())
    }
}

impl<M: StateMachine> Running<M> {
    /// Applies the outstanding batch and calls `each` for every entry. If `flips` is set, clears it
    /// and flips a bit of the first command before that. `each` gets the machine if its state is
    /// that after the entry: of a batch that the machine applies at once, for the last entry only.
    pub fn apply(
        &mut self,
        now: raft::Now,
        flips: &mut bool,
        mut each: impl FnMut(
            Index,
            &raft::Entry,
            Option<&Answer>,
            Option<&Replica<M>>,
        ) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        let Some(apply) = self.apply.take() else { return Ok(()) };
        let mut hashes = Vec::with_capacity(apply.entries.len());
        let mut flipped = None;
        let mut entries = apply.entries.clone();
        for entry in &mut entries {
            let Some(first) = command_begins_at(&entry.payload) else { continue };
            if let Payload::Command(bytes) | Payload::SessionCommand(bytes) = &mut entry.payload
                && std::mem::take(flips)
            {
                let mut changed = bytes.to_vec();
                changed[first] ^= 1;
                *bytes = changed.into();
                flipped = Some(entry.id.index);
            }
        }
        // Some batches go to the replica at once. One by one, the invariants of its machine are
        // checked more often.
        let at_once = self.machine_at.0.is_multiple_of(2);
        let mut answers = Vec::new();
        if at_once {
            answers = match self.replica.apply(&entries) {
                Ok(answers) => answers,
                Err(error) => {
                    let first = apply.entries.first().map(|entry| entry.id);
                    return violation(
                        Check::BatchHasAnAnswerForEachCommand,
                        first,
                        error.to_string(),
                    );
                }
            };
        }
        let mut answers = answers.into_iter();
        for (entry, given) in apply.entries.iter().zip(&entries) {
            let answer = match at_once {
                true => answers.next(),
                false => {
                    let applied = self.replica.apply(std::slice::from_ref(given));
                    applied.ok().and_then(|mut answers| answers.pop())
                }
            };
            let answer = answer.unwrap_or_else(|| Ok(Bytes::new()));
            let hash = entry_hash(entry, &hashed(&answer));
            // A machine's answer need not depend on the flipped bit, so the hash must.
            hashes.push(hash ^ u64::from(flipped == Some(entry.id.index)));
            let is_after = !at_once || apply.entries.last().is_some_and(|last| last.id == entry.id);
            let answer = has_answer(&entry.payload).then_some(&answer);
            each(self.machine_at, entry, answer, is_after.then_some(&self.replica))?;
            self.machine_at = entry.id.index;
        }
        self.node.applied(now, apply.applied_with(hashes));
        Ok(())
    }

    /// The state, as encoded in a snapshot.
    pub fn state(&self) -> Vec<u8> {
        copies::bytes_of(&self.replica.freeze())
    }
}

/// Where the bytes of a client's command begin in an entry, if there are any. A bit of the first of
/// them may flip.
pub(crate) fn command_begins_at(payload: &Payload) -> Option<usize> {
    let (bytes, first) = match payload {
        Payload::Command(bytes) => (bytes, 0),
        Payload::SessionCommand(bytes) => (bytes, SessionNumber::BYTES),
        _ => return None,
    };
    (bytes.len() > first).then_some(first)
}

/// The check that fails if a needed snapshot cannot be read.
pub(crate) const MISSING: Check = Check::SnapshotThatTheLogBeginsAfterIsThere;

/// The result of restoring a state machine.
pub(crate) enum Restoration {
    /// The machine has the state of the snapshot, which has this size.
    Done { bytes: u64 },
    /// The snapshot cannot be read.
    Unreadable(String),
}

/// Restores a state machine from a snapshot, and checks that a snapshot of it is the same again.
pub(crate) fn restore<M: StateMachine>(
    id: u64,
    snapshots: &Snapshots<MemDisk>,
    snapshot: &Snapshot,
    replica: &mut Replica<M>,
) -> Result<Restoration, Violation> {
    let state = match read(snapshots, snapshot.last) {
        Ok(state) => state,
        Err(detail) => return Ok(Restoration::Unreadable(format!("node {id}: {detail}"))),
    };
    if let Err(error) = replica.restore(snapshot.time, &mut state.as_slice()) {
        return violation(Check::SnapshotIsRestored, NodeId(id), format!("node {id}: {error}"));
    }
    let again = copies::bytes_of(&replica.freeze());
    if again != state {
        let detail = format!(
            "node {id}: the state restored from {} differs from the snapshot: {}; {}",
            snapshot.last,
            copies::difference(&again, &state),
            copies::CAUSES
        );
        return violation(Check::SnapshotIsTheState, NodeId(id), detail);
    }
    Ok(Restoration::Done { bytes: state.len() as u64 })
}
