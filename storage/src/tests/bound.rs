//! Whether a log at its bound gets free again: a lone node of the core with a log of this crate.

use super::*;
use crate::LogStore;
use crate::PersistError;
use crate::log::AppendError;
use raft::{Action, Config, LogId as Id, Now, RawNode, Write};

const BLOCK: u64 = 4096;

fn bounded(segment_blocks: u64, segments: u64) -> LogConfig {
    let segment_bytes = segment_blocks * BLOCK;
    // Spare segments are kept, as by default: the disk in memory counts removed files until the
    // directory is synced.
    let recycled_bytes_max = 1 << 30;
    LogConfig { segment_bytes, bytes_max: segments * segment_bytes, recycled_bytes_max, ..config() }
}

/// A lone voter, its log, and what is under way.
struct Lone {
    disk: MemDisk,
    node: RawNode,
    log: Log<MemDisk>,
    stuck: Option<Write>,
    snapshots: u64,
    refused: u64,
    over: u64,
}

impl Lone {
    fn new(config: LogConfig, adapt: impl FnOnce(&mut Config)) -> Lone {
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
        let mut settings = Config::new(NODE, Incarnation(77), 1);
        settings.campaign_at_start = true;
        // What `fit_to_log` of the crate quorate does.
        let most = (config.bytes_max / 4) as usize;
        settings.snapshot_log_bytes = settings.snapshot_log_bytes.min(most);
        settings.snapshot_log_bytes_max = settings.snapshot_log_bytes_max.min(most);
        settings.snapshot_log_writes = settings.snapshot_log_writes.min((most / 4096).max(1));
        adapt(&mut settings);
        let node = RawNode::new(settings, restored).unwrap();
        let mut lone = Lone { disk, node, log, stuck: None, snapshots: 0, refused: 0, over: 0 };
        lone.turn();
        lone
    }

    fn persist(&mut self, write: Write) {
        match self.log.persist(write) {
            Ok(done) => self.node.persisted(Now::default(), done),
            Err(PersistError::Full { write, .. }) => {
                self.refused += 1;
                self.stuck = Some(*write);
            }
            Err(error) => panic!("{error}"),
        }
        let usage = self.log.usage();
        self.over = self.over.max(usage.bytes.saturating_sub(usage.bytes_max));
    }

    /// One tick, a write without room attempted again, and all orders carried out.
    fn turn(&mut self) {
        self.node.tick(Now::default());
        if let Some(write) = self.stuck.take() {
            let write = self.node.renew_write(write);
            self.persist(write);
        }
        while let Some(action) = self.node.poll() {
            match action {
                Action::Persist(write) => self.persist(write),
                Action::Apply(apply) => self.node.applied(Now::default(), apply.applied()),
                Action::TakeSnapshot(order) => {
                    self.snapshots += 1;
                    self.node.compact(Now::default(), order.durable());
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn propose(&mut self, len: usize) {
        let _ = self.node.propose(Now::default(), Bytes::from(vec![7; len]));
        self.turn();
    }

    fn story(&self) -> String {
        let status = self.node.status();
        format!(
            "last {} durable {} commit {} base {}, {} snapshots, {} refused, {:?}",
            status.last,
            status.durable,
            status.commit,
            status.snapshot.last,
            self.snapshots,
            self.refused,
            self.log.usage()
        )
    }
}

/// Commands of random sizes, of which each would fit into a segment. Nothing but the bound is in
/// the way, and every snapshot succeeds at once.
fn stuck_once(seed: u64, segment_blocks: u64, segments: u64, largest: u64) -> Option<String> {
    let mut numbers = super::crash::Numbers(seed);
    let mut lone = Lone::new(bounded(segment_blocks, segments), |_| ());
    for _ in 0..200 {
        let len = numbers.below(largest * BLOCK) as usize;
        lone.propose(len);
        let mut turns = 0;
        while lone.stuck.is_some() {
            lone.turn();
            turns += 1;
            if turns > 20_000 {
                return Some(format!("seed {seed}: {}", lone.story()));
            }
        }
    }
    None
}

#[test]
fn a_log_at_its_bound_gets_free() {
    let mut report = Vec::new();
    for (segment_blocks, largest) in [(4, 3), (16, 8), (64, 16)] {
        for segments in 2..=5 {
            let stuck: Vec<String> = (0..20)
                .filter_map(|seed| stuck_once(seed, segment_blocks, segments, largest))
                .collect();
            report.push(format!(
                "{segments} segments of {segment_blocks} blocks, commands up to {largest} blocks: {} of 20 stuck; {:?}",
                stuck.len(), stuck.first()
            ));
        }
    }
    println!("{}", report.join("\n"));
    assert!(report.iter().all(|line| line.contains(" 0 of 20 ")), "\n{}", report.join("\n"));
}

#[test]
fn two_segments_and_a_rest_that_is_too_small() {
    let mut log = {
        let disk = MemDisk::new();
        let (mut log, _) = Log::open(disk, bounded(4, 2)).unwrap();
        log.identify(identity()).unwrap();
        log.begin(snapshot(Id::ZERO)).unwrap();
        log
    };
    write(&mut log, hard(1, Some(1)), &entries(1, 1, 1));
    log_start(&mut log, hard(1, Some(1)), &LogStart::Compact(snapshot(Id::new(1, 1))), &[]);
    // All is covered by the snapshot. One block is left in the segment, the next write needs two.
    let next = [entry(2, 1, 5000)];
    let batch = BatchRef { hard_state: hard(1, Some(1)), log_start: None, entries: &[&next] };
    let result = log.append(batch);
    assert!(!matches!(result, Err(AppendError::Full(_))), "{result:?} {:?}", log.usage());
}

/// The same with commands that are longer than a segment, and bounds that have room for two of
/// them.
#[test]
fn long_commands_get_free() {
    let mut report = Vec::new();
    for (segment_blocks, largest, segments) in
        [(4, 6, 4), (4, 6, 5), (4, 9, 6), (4, 9, 7), (4, 17, 10)]
    {
        let stuck: Vec<String> = (0..20)
            .filter_map(|seed| stuck_once(seed, segment_blocks, segments, largest))
            .collect();
        report.push(format!(
            "{segments} segments of {segment_blocks} blocks, commands up to {largest} blocks: {} of 20 stuck; {:?}",
            stuck.len(), stuck.first()
        ));
    }
    println!("{}", report.join("\n"));
    assert!(report.iter().all(|line| line.contains(" 0 of 20 ")), "\n{}", report.join("\n"));
}

/// A follower whose log is full, with a command that waits for room. A candidate asks for its vote.
#[test]
fn a_node_whose_log_is_full_votes() {
    use raft::{Body, Index, Message, Round};
    let disk = MemDisk::new();
    let (mut log, _) = Log::open(disk, bounded(4, 4)).unwrap();
    log.identify(identity()).unwrap();
    let restored = log.begin(snapshot(Id::ZERO)).unwrap();
    let settings = Config::new(NODE, Incarnation(1), 1);
    let mut node = RawNode::new(settings, restored).unwrap();
    let message = |from: u64, term: u64, body| Message {
        from: NodeId(from),
        to: NODE,
        term: Term(term),
        incarnation: Incarnation(from),
        body,
    };
    let mut stuck = None;
    let mut sent = Vec::new();
    let carry = |node: &mut RawNode,
                 log: &mut Log<MemDisk>,
                 stuck: &mut Option<Write>,
                 sent: &mut Vec<String>| {
        while let Some(action) = node.poll() {
            match action {
                Action::Persist(write) => match log.persist(write) {
                    Ok(done) => node.persisted(Now::default(), done),
                    Err(PersistError::Full { write, .. }) => *stuck = Some(*write),
                    Err(error) => panic!("{error}"),
                },
                Action::Apply(apply) => node.applied(Now::default(), apply.applied()),
                // It is under way all the time: the state is large.
                Action::TakeSnapshot(_) => {}
                Action::Send(message) => sent.push(format!("{:?}", message.body)),
                _ => {}
            }
        }
    };
    let mut index = 1;
    while stuck.is_none() {
        let entry = entry(index, 1, 100);
        let prev = Id::new(index - 1, u64::from(index > 1));
        let body = Body::Append {
            prev,
            entries: vec![entry].into(),
            commit: Index(index - 1),
            round: Round(index),
            time: LogTime(1),
        };
        node.step(Now::default(), message(2, 1, body));
        carry(&mut node, &mut log, &mut stuck, &mut sent);
        index += 1;
        assert!(index < 1000);
    }
    // The leader fails.
    for _ in 0..500 {
        node.tick(Now::default());
    }
    carry(&mut node, &mut log, &mut stuck, &mut sent);
    sent.clear();
    let last = Id::new(index, 1);
    let mut tries = 0;
    for _ in 0..50 {
        node.step(Now::default(), message(3, 9, Body::Vote { last, transfer: false }));
        carry(&mut node, &mut log, &mut stuck, &mut sent);
        if let Some(write) = stuck.take() {
            tries += 1;
            let write = node.renew_write(write);
            match log.persist(write) {
                Ok(done) => node.persisted(Now::default(), done),
                Err(PersistError::Full { write, .. }) => stuck = Some(*write),
                Err(error) => panic!("{error}"),
            }
        }
        carry(&mut node, &mut log, &mut stuck, &mut sent);
    }
    let votes = sent.iter().filter(|body| body.contains("VoteReply")).count();
    println!("{tries} tries, {votes} votes: {sent:?} {:?} {:?}", node.status().term, log.usage());
    assert!(votes > 0, "{tries} tries, no vote; {:?}", log.usage());
}

/// On a full disk, the start of the log alone, without the entries that wait, would often have had
/// room, and would have freed all that the write needs.
#[test]
fn full_disk_start_of_the_log_alone() {
    let (mut stuck, mut alone, mut then) = (0, 0, 0);
    let mut sample = String::new();
    for segments in 3..=6 {
        for seed in 0..40 {
            let mut numbers = super::crash::Numbers(seed);
            let mut lone = Lone::new(bounded(16, 1 << 18), |settings| {
                settings.snapshot_log_writes = 1 << 20;
            });
            lone.disk.set_capacity(Some(segments * 16 * BLOCK + 3 * BLOCK));
            for _ in 0..1000 {
                lone.propose(numbers.below(8 * BLOCK) as usize);
                for _ in 0..100 {
                    if lone.stuck.is_some() {
                        lone.turn();
                    }
                }
                let Some(write) = lone.stuck.take() else { continue };
                stuck += 1;
                let batch = BatchRef {
                    hard_state: write.hard_state,
                    log_start: write.log_start.as_ref(),
                    entries: &[],
                };
                sample = format!("{:?} {:?}", write.log_start.is_some(), lone.story());
                if lone.log.append(batch).is_ok() {
                    alone += 1;
                    // The segment that was ordered before is refused first.
                    then += match lone.log.persist(write) {
                        Err(PersistError::Full { write, .. }) => {
                            u32::from(lone.log.persist(*write).is_ok())
                        }
                        result => u32::from(result.is_ok()),
                    };
                }
                break;
            }
        }
    }
    println!(
        "{stuck} stuck for ever, of which {alone} would write the start of the log alone, after which {then} write the rest; {sample}"
    );
    assert_eq!(alone, 0);
}

/// Kills at random moments. Whether the log gets free, and by how much it exceeds its bound.
fn killed_once(
    seed: u64,
    segment_blocks: u64,
    segments: u64,
    largest: u64,
) -> (Option<String>, u64) {
    let mut numbers = super::crash::Numbers(seed);
    let config = bounded(segment_blocks, segments);
    let mut lone = Lone::new(config.clone(), |_| ());
    for _ in 0..150 {
        lone.propose(numbers.below(largest * BLOCK) as usize);
        let mut turns = 0;
        while lone.stuck.is_some() {
            lone.turn();
            turns += 1;
            if turns > 5_000 {
                return (Some(format!("seed {seed}: {}", lone.story())), lone.over);
            }
        }
        if numbers.below(4) == 0 {
            let (disk, over, snapshots) = (lone.disk.clone(), lone.over, lone.snapshots);
            drop(lone);
            disk.kill();
            let (log, found) = match Log::open(disk.clone(), config.clone()) {
                Ok(opened) => opened,
                Err(error) => return (Some(format!("seed {seed}: {error}")), over),
            };
            let mut settings = Config::new(NODE, Incarnation(77), seed);
            settings.campaign_at_start = true;
            let most = (config.bytes_max / 4) as usize;
            settings.snapshot_log_bytes = settings.snapshot_log_bytes.min(most);
            settings.snapshot_log_bytes_max = settings.snapshot_log_bytes_max.min(most);
            settings.snapshot_log_writes = settings.snapshot_log_writes.min((most / 4096).max(1));
            let mut restored = found.restored.unwrap();
            // The tests' snapshot of another cluster is not used here: the log has kept its own.
            restored.hard_state.lost = None;
            let node = RawNode::new(settings, restored).unwrap();
            lone = Lone { disk, node, log, stuck: None, snapshots, refused: 0, over };
            lone.turn();
        }
    }
    (None, lone.over)
}

#[test]
fn kills_at_the_bound() {
    let mut report = Vec::new();
    for (segment_blocks, largest) in [(4, 3), (16, 8), (4, 9)] {
        for segments in 3..=7 {
            if segments * segment_blocks < 2 * largest + 2 * segment_blocks {
                continue;
            }
            let runs: Vec<_> =
                (0..40).map(|seed| killed_once(seed, segment_blocks, segments, largest)).collect();
            let stuck: Vec<_> = runs.iter().filter_map(|run| run.0.clone()).collect();
            let over = runs.iter().map(|run| run.1).max().unwrap() / BLOCK;
            report.push(format!(
                "{segments} segments of {segment_blocks} blocks, commands up to {largest} blocks: {} of 40 stuck; over by {over} blocks; {:?}",
                stuck.len(), stuck.first()
            ));
        }
    }
    println!("{}", report.join("\n"));
    assert!(report.iter().all(|line| line.contains(" 0 of 40 ")), "\n{}", report.join("\n"));
}

/// No snapshot is finished until the log is full. Then the node is killed once, and from its next
/// start on every snapshot succeeds at once. Whether it leads and gets free again.
fn one_kill(
    config: &LogConfig,
    commands: usize,
    len: usize,
    kills: usize,
) -> Result<String, String> {
    let mut lone = Lone::new(config.clone(), |settings| {
        settings.snapshot_log_bytes = usize::MAX / 4;
        settings.snapshot_log_bytes_max = usize::MAX / 4;
        settings.snapshot_log_writes = usize::MAX / 4;
    });
    while lone.stuck.is_none() {
        for _ in 0..commands {
            let _ = lone.node.propose(Now::default(), Bytes::from(vec![7; len]));
        }
        // As `turn`, but that an attempt again is not made, which would order a snapshot.
        while let Some(action) = lone.node.poll() {
            match action {
                Action::Persist(write) => lone.persist(write),
                Action::Apply(apply) => lone.node.applied(Now::default(), apply.applied()),
                other => panic!("{other:?}"),
            }
        }
    }
    let before = format!("{} of {}", lone.log.usage().bytes, lone.log.usage().bytes_max);
    for life in 1..=kills {
        let disk = lone.disk.clone();
        drop(lone);
        disk.kill();
        let (log, found) =
            Log::open(disk.clone(), config.clone()).map_err(|error| error.to_string())?;
        let mut settings = Config::new(NODE, Incarnation(77), life as u64);
        settings.campaign_at_start = true;
        let node = RawNode::new(settings, found.restored.unwrap()).unwrap();
        lone = Lone { disk, node, log, stuck: None, snapshots: 0, refused: 0, over: 0 };
        if life < kills {
            // Killed once it leads.
            lone.node.tick(Now::default());
            while let Some(action) = lone.node.poll() {
                match action {
                    Action::Persist(write) => lone.persist(write),
                    _ => break,
                }
            }
        }
    }
    for _ in 0..5_000 {
        lone.turn();
    }
    let leads =
        lone.node.is_leader() && lone.node.status().applied == lone.node.status().last.index;
    let story =
        format!("leads {}, {before} before the kill; {}", lone.node.is_leader(), lone.story());
    if leads && lone.stuck.is_none() { Ok(story) } else { Err(story) }
}

#[test]
fn one_kill_at_the_bound() {
    let mut report = Vec::new();
    let mut failed = 0;
    for segment_blocks in [4, 16] {
        for segments in [3, 4, 6, 20] {
            for blocks in 1..=segment_blocks + 1 {
                let config = bounded(segment_blocks, segments);
                let len = (blocks * BLOCK) as usize - 600;
                if let Err(story) = one_kill(&config, 1, len, 1) {
                    failed += 1;
                    report.push(format!("{segments} segments of {segment_blocks} blocks, writes of {blocks}: {story}"));
                }
            }
        }
    }
    // Default settings of the core: writes of up to 1 MiB.
    for (segment_mib, bound_mib) in [(1, 64), (2, 64), (4, 64), (16, 64)] {
        for kills in [1, 2, 3] {
            let config = LogConfig {
                segment_bytes: segment_mib << 20,
                bytes_max: bound_mib << 20,
                ..config()
            };
            let result = one_kill(&config, 20, 100_000, kills);
            failed += u64::from(result.is_err());
            report.push(format!("{bound_mib} MiB in segments of {segment_mib} MiB, writes of 1 MiB, {kills} kills: {result:?}"));
        }
    }
    println!("{}", report.join("\n"));
    assert_eq!(failed, 0, "\n{}", report.join("\n"));
}

/// A node that is killed soon after each start, before a snapshot is finished, as by the system
/// when the snapshot takes too much memory. After how many lives it can never lead again.
#[test]
fn lives_without_a_snapshot() {
    let mut first = None;
    for kills in [1, 25, 50, 75, 100, 150, 200] {
        let config = LogConfig { segment_bytes: 1 << 20, bytes_max: 8 << 20, ..config() };
        let result = one_kill(&config, 1, 2000, kills);
        println!("{kills} lives: {result:?}");
        if result.is_err() {
            first = first.or(Some(kills));
        }
    }
    assert_eq!(first, None, "lives");
}

/// The log is filled, the node is killed, a snapshot is taken; again and again. Spare segments are
/// kept, as by default.
#[test]
fn spare_segments_ratchet_beyond_the_bound() {
    let mut worst = 0;
    for blocks in 1..=4 {
        for (segments, kills) in [(3, true), (6, true), (3, false), (6, false)] {
            let disk = MemDisk::new();
            let open = || {
                Log::open(disk.clone(), bounded(4, segments)).map_err(|e| e.to_string()).unwrap().0
            };
            let mut log = open();
            log.identify(identity()).unwrap();
            log.begin(snapshot(Id::ZERO)).unwrap();
            let mut index = 1;
            let mut over = Vec::new();
            for _ in 0..40 {
                loop {
                    let next = [entry(index, 1, (blocks * BLOCK) as usize - 600)];
                    let batch = BatchRef {
                        hard_state: hard(1, Some(1)),
                        log_start: None,
                        entries: &[&next],
                    };
                    if log.append(batch).is_err() {
                        break;
                    }
                    index += 1;
                }
                if kills {
                    drop(log);
                    disk.kill();
                    log = open();
                }
                let start = LogStart::Compact(snapshot(Id::new(index - 1, 1)));
                // The next entries come with it, as `renew_write` does it.
                let next = [entry(index, 1, (blocks * BLOCK) as usize - 600)];
                let batch = BatchRef {
                    hard_state: hard(1, Some(1)),
                    log_start: Some(&start),
                    entries: &[&next],
                };
                if log.append(batch).is_ok() {
                    index += 1;
                }
                let usage = log.usage();
                over.push(usage.bytes.saturating_sub(usage.bytes_max) / BLOCK);
            }
            worst = worst.max(*over.last().unwrap());
            println!(
                "{segments} segments, writes of {blocks}, kills {kills}: over by {:?} blocks after 1, 10, 40 rounds",
                (over[0], over[9], over[39])
            );
        }
    }
    assert!(worst <= 4, "over by {worst} blocks in the end, with spare segments");
}
