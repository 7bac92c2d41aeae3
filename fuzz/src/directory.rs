//! Fuzzes the start from a damaged data directory. A start reads the directory and reports what it
//! found, or refuses it. A second start must find the same.

use crate::Input;
use raft::{Incarnation, Index, LogId, Member, Membership, NodeId, Snapshot};
use std::io::Write;
use storage::testing::MemDisk;
use storage::{ClusterId, Directory, LogConfig, Snapshots};

const NODE: NodeId = NodeId(1);

fn config() -> LogConfig {
    let mut config = LogConfig::default();
    (config.segment_bytes, config.background) = (16 << 10, false);
    config
}

/// A directory with a new log and snapshots.
fn directory() -> MemDisk {
    let disk = MemDisk::new();
    let (directory, _) = Directory::open(disk.clone(), config()).expect("an empty directory");
    let Directory::Unclaimed(unclaimed) = directory else { unreachable!("it is empty") };
    let announced =
        unclaimed.announce(NODE, Incarnation(7), &[NODE, NodeId(2)]).expect("it is written");
    let member = announced.join(ClusterId(1), membership()).expect("it begins");
    let snapshots = Snapshots::new(disk.clone()).expect("an empty directory");
    for index in [3, 9] {
        let last = LogId { index: Index(index), ..LogId::new(index, 1) };
        let snapshot = Snapshot { last, ..Snapshot::initial(membership()) };
        let mut writer = snapshots.create(&snapshot).expect("there is room");
        writer.write_all(&[7; 5_000]).expect("there is room");
        writer.finish().expect("there is room");
    }
    drop(member);
    disk.kill();
    disk
}

fn membership() -> Membership {
    let member = |id| Member {
        incarnation: Incarnation(id),
        peer_address: format!("127.0.0.1:908{id}"),
        client_address: format!("127.0.0.1:808{id}"),
    };
    Membership::of_voters((1..=2).map(|id| (NodeId(id), member(id))).collect())
}

/// Damages files until the bytes are used up: each step overwrites a part of a file, truncates it,
/// replaces its end or removes it. Then starts twice.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let disk = directory();
    while !input.is_empty() {
        damage(&disk, &mut input);
    }
    let first = start(&disk);
    disk.kill();
    let second = start(&disk);
    disk.kill();
    // A repair by the first start lasts. A directory that it refuses is refused again.
    assert_eq!(first.is_some(), second.is_some(), "{first:?}, then {second:?}");
    if let (Some(first), Some(second)) = (first, second) {
        assert_eq!(first, second);
    }
}

fn damage(disk: &MemDisk, input: &mut Input<'_>) {
    let paths = disk.paths();
    if paths.is_empty() {
        input.byte();
        return;
    }
    let path = &paths[input.below(paths.len() as u64) as usize];
    let content = disk.read(path).unwrap_or_default();
    let at = (input.below(256) << 8 | input.below(256)) as usize % content.len().max(1);
    match input.below(5) {
        0 => disk.install(path, &content[..at]),
        1 => {
            let len = usize::from(input.byte());
            let bytes = input.bytes(len);
            let mut longer = content[..at].to_vec();
            longer.extend(bytes);
            disk.install(path, &longer);
        }
        2 => disk.lose(path),
        _ => {
            let len = 1 + input.below(32) as usize;
            let bytes = input.bytes(len);
            let len = bytes.len().min(content.len().saturating_sub(at));
            if len > 0 {
                disk.damage(path, at as u64, &bytes[..len]);
            }
        }
    }
}

/// The state that a start restores, as text; `None` if it refuses the directory.
fn start(disk: &MemDisk) -> Option<String> {
    let Directory::Member(mut member) = Directory::open(disk.clone(), config()).ok()?.0 else {
        return None;
    };
    let snapshots = Snapshots::new(disk.clone()).ok()?;
    member.check_base(&snapshots).ok()?;
    let restored = member.restored().clone();
    let node = raft::RawNode::new(raft::Config::new(NODE, Incarnation(7), 1), restored.clone());
    assert!(node.is_ok(), "what is restored is sound: {:?}", node.err());
    Some(format!("{restored:?}"))
}
