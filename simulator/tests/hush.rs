//! A panic of a state machine is printed once. Alone in its file, since it sets the panic hook of
//! the process.

use bytes::Bytes;
use driver::{ApplyContext, Frozen, LogTime, RestoreError, StateMachine};
use simulator::{Check, ClientRequest, Simulation};
use std::io::{self, Read, Write};
use std::panic;
use std::sync::atomic::{AtomicU64, Ordering};

static PRINTED: AtomicU64 = AtomicU64::new(0);

/// Fails an assertion at the thirtieth command.
#[derive(Clone, Default)]
struct Panics(u64);

impl StateMachine for Panics {
    type Frozen = Self;

    fn apply(&mut self, _at: ApplyContext, _command: Bytes) -> Bytes {
        self.0 += 1;
        assert!(self.0 < 30, "thirty is too much");
        Bytes::new()
    }

    fn query(&self, _time: LogTime, _query: &[u8]) -> Bytes {
        Bytes::new()
    }

    fn freeze(&self) -> Self {
        self.clone()
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

impl Frozen for Panics {
    fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&self.0.to_le_bytes())
    }
}

#[test]
fn a_panic_is_printed_once_however_often_it_is_repeated() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(|_| _ = PRINTED.fetch_add(1, Ordering::Relaxed)));
    let page = std::env::temp_dir().join(format!("simulator-hush-{}.html", std::process::id()));
    let found = Simulation::new(Panics::default, |_, _| ClientRequest::Command(Bytes::new()))
        .seeds(0..1)
        .timeline(&page)
        .check();
    let after = panic::catch_unwind(|| panic!("a panic outside of the report"));
    panic::set_hook(before);
    let failed = found.expect_err("it panics").failed().expect("a promise is broken");
    assert_eq!(failed.violation.check, Check::NothingPanics);
    assert!(failed.shrunk.runs > 1, "{failed}");
    assert!(after.is_err());
    assert_eq!(PRINTED.load(Ordering::Relaxed), 2, "one of the run, one of the test");
    std::fs::remove_file(page).expect("the page is there");
}
