//! Silences the text of panics while a run that panics is repeated.
//!
//! A machine that panics does so in each of hundreds of runs while its plan is shrunk. The first
//! run has printed where; the others would bury the report.

use std::cell::Cell;
use std::panic;
use std::sync::Once;

thread_local! {
    static HUSHED: Cell<u32> = const { Cell::new(0) };
}

static HOOK: Once = Once::new();

/// As long as it lives, panics of this thread print nothing.
pub(crate) struct Hushed(());

impl Hushed {
    pub fn new() -> Self {
        HOOK.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |panic| {
                if HUSHED.get() == 0 {
                    before(panic);
                }
            }));
        });
        HUSHED.set(HUSHED.get() + 1);
        Hushed(())
    }
}

impl Drop for Hushed {
    fn drop(&mut self) {
        HUSHED.set(HUSHED.get() - 1);
    }
}
