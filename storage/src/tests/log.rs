//! What the log does while nothing breaks, and what it does when the disk says that it does.

use super::*;
use crate::{LockError, OpenError, RealDisk};

#[test]
fn what_was_written_is_there_after_a_restart_on_a_real_disk() {
    let directory = tempfile::tempdir().unwrap();
    let config = LogConfig { segment_bytes: 64 << 10, ..LogConfig::default() };
    let open = || Log::open(RealDisk::new(directory.path()), config.clone()).unwrap();
    let (mut log, found) = open();
    assert!(found.identity.is_none() && found.restored.is_none());
    log.identify(identity()).unwrap();
    log.begin(snapshot(LogId::ZERO)).unwrap();
    for index in 1..=200 {
        write(&mut log, hard(3, Some(2)), &[entry(index, 3, 1000)]);
    }
    drop(log);
    for _ in 0..2 {
        let (log, found) = open();
        let restored = found.restored.unwrap();
        assert_eq!(found.identity, Some(identity()));
        assert_eq!(restored.hard_state, hard(3, Some(2)));
        assert_eq!(restored.snapshot, snapshot(LogId::ZERO));
        assert_eq!(restored.entries, (1..=200).map(|i| entry(i, 3, 1000)).collect::<Vec<_>>());
        log.close().unwrap();
    }
}

#[test]
fn a_directory_in_use_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Log::open(RealDisk::new(directory.path()), config());
    let held = open().unwrap_or_else(|error| panic!("{error}"));
    let error = open().err().unwrap();
    assert!(matches!(&error, OpenError::Lock(LockError::Held { .. })));
    let message = error.to_string();
    assert!(message.contains(directory.path().to_str().unwrap()), "{message}");
    assert!(message.contains("another process holds this data directory"), "{message}");
    drop(held);
    assert!(open().is_ok());
}
