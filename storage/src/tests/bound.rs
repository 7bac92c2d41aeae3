//! A log at its bound gets free again, and its node votes and leads meanwhile: a lone node of the
//! core with a log of this crate, on a disk in memory.

use super::crash::Numbers;
use super::*;
use crate::log::AppendError;
use crate::{LogStore, PersistError, Usage};
use raft::{Action, Body, Config, Index, Message, Now, RawNode, Round, Write};

const BLOCK: u64 = 4096;
/// A log that has not got free after this many turns counts as one that stays full.
const TURNS_MAX: u32 = 5_000;

/// Spare segments are kept, as by default.
fn bounded(segment_blocks: u64, segments: u64) -> LogConfig {
    let segment_bytes = segment_blocks * BLOCK;
    let bytes_max = segments * segment_bytes;
    LogConfig { segment_bytes, bytes_max, recycled_bytes_max: 1 << 30, ..config() }
}

/// The bytes of a command whose batch takes this many blocks.
fn command_of(blocks: u64) -> usize {
    (blocks * BLOCK) as usize - 600
}

/// A voter alone, its log, and a write that found no room.
struct Lone {
    config: LogConfig,
    disk: MemDisk,
    node: RawNode,
    log: Log<MemDisk>,
    stuck: Option<Write>,
    /// Whether snapshots are finished, at once.
    finishes_snapshots: bool,
    lives: u64,
}

impl Lone {
    fn new(config: LogConfig) -> Lone {
        let member = Member {
            incarnation: Incarnation(77),
            peer_address: String::new(),
            client_address: String::new(),
        };
        let alone = Membership::of_voters([(NODE, member)].into());
        let disk = MemDisk::new();
        let (mut log, _) = Log::open(disk.clone(), config.clone()).unwrap();
        log.identify(identity()).unwrap();
        let restored = log.begin(Snapshot::initial(alone)).unwrap();
        let node = Lone::node(&config, restored, 1);
        let finishes_snapshots = true;
        let mut lone = Lone { config, disk, node, log, stuck: None, finishes_snapshots, lives: 1 };
        lone.turn();
        lone
    }

    /// With snapshots as often as the crate `quorate` has them for this bound.
    fn node(config: &LogConfig, restored: Restored, life: u64) -> RawNode {
        let mut settings = Config::new(NODE, Incarnation(77), life);
        settings.campaign_at_start = true;
        let most = (config.bytes_max / 4) as usize;
        settings.snapshot_log_bytes = settings.snapshot_log_bytes.min(most);
        settings.snapshot_log_bytes_max = settings.snapshot_log_bytes_max.min(most);
        settings.snapshot_log_writes = (most / BLOCK as usize).max(1);
        RawNode::new(settings, restored).unwrap()
    }

    /// The process is killed, and another one starts.
    fn killed(self) -> Lone {
        let Lone { config, disk, finishes_snapshots, lives, .. } = self;
        drop((self.node, self.log));
        disk.kill();
        let opened = Log::open(disk.clone(), config.clone());
        let (log, found) = opened.unwrap_or_else(|error| panic!("it does not start: {error}"));
        let node = Lone::node(&config, found.restored.unwrap(), lives + 1);
        Lone { config, disk, node, log, stuck: None, finishes_snapshots, lives: lives + 1 }
    }

    fn persist(&mut self, write: Write) {
        match self.log.persist(write) {
            Ok(done) => self.node.persisted(Now::default(), done),
            Err(PersistError::Full { write, .. }) => self.stuck = Some(*write),
            Err(error) => panic!("{error}"),
        }
    }

    /// Carries out what is ordered.
    fn carry_out(&mut self) {
        while let Some(action) = self.node.poll() {
            match action {
                Action::Persist(write) => self.persist(write),
                Action::Apply(apply) => self.node.applied(Now::default(), apply.applied()),
                Action::TakeSnapshot(order) if self.finishes_snapshots => {
                    self.node.compact(Now::default(), order.durable());
                }
                Action::TakeSnapshot(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// A tick, and another attempt at a write that found no room.
    fn turn(&mut self) {
        self.node.tick(Now::default());
        if let Some(write) = self.stuck.take() {
            let write = self.node.renew_write(write);
            self.persist(write);
        }
        self.carry_out();
    }

    fn propose(&mut self, len: usize) {
        let _ = self.node.propose(Now::default(), Bytes::from(vec![7; len]));
        self.turn();
    }

    /// Whether the log has room for everything, and all of it is applied, in the end.
    fn gets_free(&mut self) -> bool {
        (0..TURNS_MAX).any(|_| {
            self.turn();
            let status = self.node.status();
            self.stuck.is_none() && self.node.is_leader() && status.applied == status.last.index
        })
    }

    fn assert_gets_free(&mut self, what: &str) {
        let free = self.gets_free();
        let (status, usage) = (self.node.status(), self.log.usage());
        assert!(free, "{what}: leads {}, {status:?}, {usage:?}", self.node.is_leader());
    }

    /// Fills the log while no snapshot is finished.
    fn fill(&mut self, commands: usize, len: usize) {
        self.finishes_snapshots = false;
        while self.stuck.is_none() {
            for _ in 0..commands {
                let _ = self.node.propose(Now::default(), Bytes::from(vec![7; len]));
            }
            self.carry_out();
        }
    }
}

/// Segments in blocks, their number, and the blocks of the longest command: some are longer than a
/// segment.
const SHAPES: [(u64, u64, u64); 11] = [
    (4, 2, 3),
    (4, 3, 3),
    (4, 5, 3),
    (16, 2, 8),
    (16, 4, 8),
    (64, 2, 16),
    (64, 5, 16),
    (4, 4, 6),
    (4, 6, 9),
    (4, 7, 9),
    (4, 10, 17),
];

#[test]
fn a_log_at_its_bound_gets_free() {
    for (segment_blocks, segments, longest) in SHAPES {
        for seed in 0..20 {
            let mut numbers = Numbers(seed);
            let mut lone = Lone::new(bounded(segment_blocks, segments));
            for _ in 0..200 {
                lone.propose(numbers.below(longest * BLOCK) as usize);
                let what = format!("{segments} of {segment_blocks} blocks, seed {seed}");
                lone.assert_gets_free(&what);
            }
        }
    }
}

#[test]
fn a_log_at_its_bound_gets_free_however_often_its_node_is_killed() {
    for (segment_blocks, segments, longest) in SHAPES {
        for seed in 0..20 {
            let mut numbers = Numbers(seed);
            let mut lone = Lone::new(bounded(segment_blocks, segments));
            for _ in 0..100 {
                lone.finishes_snapshots = numbers.below(3) > 0;
                for _ in 0..numbers.below(6) {
                    lone.propose(numbers.below(longest * BLOCK) as usize);
                }
                if numbers.below(3) == 0 {
                    lone = lone.killed();
                }
            }
            // A snapshot that was never finished is ordered again after a start.
            let mut lone = lone.killed();
            lone.finishes_snapshots = true;
            lone.assert_gets_free(&format!("{segments} of {segment_blocks} blocks, seed {seed}"));
        }
    }
}

/// The log fills up, since no snapshot is finished, and the node is killed. What its start repeats
/// is as long as the last write.
#[test]
fn a_node_that_is_killed_with_a_full_log_leads_again() {
    for segment_blocks in [4, 16] {
        for segments in [2, 3, 4, 20] {
            for blocks in 1..=segment_blocks + 1 {
                let mut lone = Lone::new(bounded(segment_blocks, segments));
                lone.fill(1, command_of(blocks));
                let mut lone = lone.killed();
                lone.finishes_snapshots = true;
                lone.assert_gets_free(&format!("{segments} of {segment_blocks}, {blocks} blocks"));
            }
        }
    }
    // Writes of 1 MiB, the longest of the core's defaults.
    for (segment_mib, lives) in [(1, 3), (4, 3), (16, 1)] {
        let segment_bytes = segment_mib << 20;
        let mut lone = Lone::new(LogConfig { segment_bytes, bytes_max: 64 << 20, ..config() });
        lone.fill(20, 100_000);
        for _ in 0..lives {
            lone = lone.killed();
            lone.turn();
        }
        let mut lone = lone.killed();
        lone.finishes_snapshots = true;
        lone.assert_gets_free(&format!("segments of {segment_mib} MiB"));
    }
}

/// As by the operating system, each time because the snapshot takes too much memory.
#[test]
fn a_node_that_is_killed_before_each_snapshot_still_leads() {
    let config = LogConfig { segment_bytes: 64 * BLOCK, bytes_max: 512 * BLOCK, ..config() };
    let mut lone = Lone::new(config);
    lone.fill(1, command_of(1));
    for life in 0..100 {
        lone = lone.killed();
        lone.turn();
        assert!(lone.node.is_leader(), "in life {life}: {:?}", lone.log.usage());
    }
    let mut lone = lone.killed();
    lone.finishes_snapshots = true;
    lone.assert_gets_free("after the last");
}

/// A command waits for room, and the state is so large that its snapshot takes all of the time.
#[test]
fn a_follower_whose_log_is_full_votes() {
    let (mut log, _) = Log::open(MemDisk::new(), bounded(4, 4)).unwrap();
    log.identify(identity()).unwrap();
    let restored = log.begin(snapshot(LogId::ZERO)).unwrap();
    let mut node = RawNode::new(Config::new(NODE, Incarnation(1), 1), restored).unwrap();
    let message = |from: u64, term, body| {
        let (to, term, incarnation) = (NODE, Term(term), Incarnation(from));
        Message { from: NodeId(from), to, term, incarnation, body }
    };
    let (mut stuck, mut votes) = (None, 0);
    let mut carry_out = |node: &mut RawNode, stuck: &mut Option<Write>| {
        if let Some(write) = stuck.take() {
            *stuck = Some(node.renew_write(write));
        }
        let mut persist =
            |node: &mut RawNode, write, stuck: &mut Option<Write>| match log.persist(write) {
                Ok(done) => node.persisted(Now::default(), done),
                Err(PersistError::Full { write, .. }) => *stuck = Some(*write),
                Err(error) => panic!("{error}"),
            };
        if let Some(write) = stuck.take() {
            persist(node, write, stuck);
        }
        while let Some(action) = node.poll() {
            match action {
                Action::Persist(write) => persist(node, write, stuck),
                Action::Apply(apply) => node.applied(Now::default(), apply.applied()),
                Action::Send(Message { body: Body::VoteReply { .. }, .. }) => votes += 1,
                _ => {}
            }
        }
    };
    let mut last = LogId::ZERO;
    while stuck.is_none() {
        let next = entry(last.index.0 + 1, 1, 100);
        let (prev, commit, round) = (last, last.index, Round(next.id.index.0));
        last = next.id;
        let body =
            Body::Append { prev, entries: vec![next].into(), commit, round, time: LogTime(1) };
        node.step(Now::default(), message(2, 1, body));
        carry_out(&mut node, &mut stuck);
        assert!(last.index < Index(1_000));
    }
    // The leader fails.
    for _ in 0..500 {
        node.tick(Now::default());
    }
    for _ in 0..3 {
        node.step(Now::default(), message(3, 9, Body::Vote { last, transfer: false }));
        carry_out(&mut node, &mut stuck);
    }
    assert!(votes > 0, "{:?}", node.status());
}

/// Without the entries that wait, the start of the log takes one block, and it frees segments.
#[test]
fn the_start_of_the_log_goes_first_on_a_full_disk() {
    let mut waited = 0;
    for seed in 0..100 {
        let mut numbers = Numbers(seed);
        let mut lone = Lone::new(bounded(16, 1 << 18));
        lone.disk.set_capacity(Some((3 + seed % 4) * 16 * BLOCK + 3 * BLOCK));
        let fills = (0..1_000).any(|_| {
            lone.propose(numbers.below(8 * BLOCK) as usize);
            lone.stuck.is_some() && !lone.gets_free()
        });
        assert!(fills, "without a bound, the disk has to be full some time");
        let write = lone.stuck.take().expect("it is full");
        waited += 1;
        // It still waits, so there was no room for it without its entries either.
        let (hard_state, log_start) = (write.hard_state, write.log_start.as_ref());
        let alone = lone.log.append(BatchRef { hard_state, log_start, entries: &[] });
        assert!(log_start.is_none() || alone.is_err(), "seed {seed}: {write:?}");
    }
    assert_eq!(waited, 100);
}

/// The snapshot covers everything, and the rest of the segment is too short for the next write.
#[test]
fn a_log_without_needed_entries_takes_the_next_write() {
    let (mut log, _) = Log::open(MemDisk::new(), bounded(4, 2)).unwrap();
    log.identify(identity()).unwrap();
    log.begin(snapshot(LogId::ZERO)).unwrap();
    write(&mut log, hard(1, Some(1)), &entries(1, 1, 1));
    let start = LogStart::Compact(snapshot(LogId::new(1, 1)));
    log_start(&mut log, hard(1, Some(1)), &start, &[]);
    let next = [entry(2, 1, command_of(2))];
    let batch = BatchRef { hard_state: hard(1, Some(1)), log_start: None, entries: &[&next] };
    let result = log.append(batch);
    assert!(result.is_ok(), "{result:?} {:?}", log.usage());
}

/// Writes commands of a block until one finds no room. Returns the index of that one.
fn fill(log: &mut Log<MemDisk>, from: u64) -> u64 {
    let next = |index| [entry(index, 1, command_of(1))];
    let refused = (from..from + 1_000).find(|index| {
        let hard_state = hard(1, Some(1));
        let result =
            log.append(BatchRef { hard_state, log_start: None, entries: &[&next(*index)] });
        assert!(!matches!(result, Err(AppendError::Failed(_))), "{result:?}");
        result.is_err()
    });
    refused.expect("there is a bound")
}

/// From a start until the start of the log moves, the bound is twice as large.
#[test]
fn a_node_that_starts_with_a_full_log_may_store_as_much_again() {
    let disk = MemDisk::new();
    let open = || Log::open(disk.clone(), bounded(4, 6)).unwrap().0;
    let mut log = open();
    log.identify(identity()).unwrap();
    log.begin(snapshot(LogId::ZERO)).unwrap();
    let full = fill(&mut log, 1);
    assert!(log.usage().bytes <= log.usage().bytes_max);
    drop(log);
    disk.kill();
    let mut log = open();
    let fuller = fill(&mut log, full);
    assert!(fuller > full + 3 * (full - 1) / 4, "{full}, {fuller}");
    assert!(log.usage().bytes <= 2 * log.usage().bytes_max);
    let start = LogStart::Compact(snapshot(LogId::new(fuller - 1, 1)));
    log_start(&mut log, hard(1, Some(1)), &start, &[]);
    let again = fill(&mut log, fuller);
    assert!(again - fuller <= full, "{full}, {fuller}, {again}");
    assert!(log.usage().bytes <= log.usage().bytes_max, "{:?}", log.usage());
}

/// Or the commands that come with each new start of the log would fill it beyond its bound.
#[test]
fn a_start_of_the_log_that_frees_nothing_keeps_to_the_bound() {
    let (mut log, _) = Log::open(MemDisk::new(), bounded(4, 4)).unwrap();
    log.identify(identity()).unwrap();
    log.begin(snapshot(LogId::ZERO)).unwrap();
    let full = fill(&mut log, 1);
    let (hard_state, next) = (hard(1, Some(1)), [entry(full, 1, command_of(1))]);
    let mut compact = |index| {
        let start = LogStart::Compact(snapshot(LogId::new(index, 1)));
        log.append(BatchRef { hard_state, log_start: Some(&start), entries: &[&next] })
    };
    // The first segment has the first batch and three commands.
    assert!(matches!(compact(2), Err(AppendError::Full(_))));
    compact(3).unwrap();
}

/// Again and again the log is full, the node is killed, and a snapshot frees the log.
#[test]
fn spare_segments_do_not_raise_the_bound() {
    for (blocks, segments) in [(1, 3), (2, 3), (4, 3), (1, 6), (3, 6), (4, 6)] {
        let disk = MemDisk::new();
        let open = || Log::open(disk.clone(), bounded(4, segments)).unwrap().0;
        let mut log = open();
        log.identify(identity()).unwrap();
        log.begin(snapshot(LogId::ZERO)).unwrap();
        let mut index = 1;
        for _ in 0..40 {
            loop {
                let next = [entry(index, 1, command_of(blocks))];
                let hard_state = hard(1, Some(1));
                match log.append(BatchRef { hard_state, log_start: None, entries: &[&next] }) {
                    Ok(()) => index += 1,
                    Err(AppendError::Full(_)) => break,
                    Err(AppendError::Failed(error)) => panic!("{error}"),
                }
            }
            drop(log);
            disk.kill();
            log = open();
            let start = LogStart::Compact(snapshot(LogId::new(index - 1, 1)));
            log_start(&mut log, hard(1, Some(1)), &start, &[]);
        }
        let Usage { bytes, bytes_max } = log.usage();
        let segment = 4 * BLOCK;
        assert!(bytes <= bytes_max + segment, "writes of {blocks} blocks: {bytes} of {bytes_max}");
    }
}
