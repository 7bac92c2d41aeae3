//! Counts the allocations of the process.
// An allocator is unsafe by nature. This one only passes calls on.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The system's allocator, with a count of allocations and reallocations.
pub struct Counting;

/// One counter on a cache line of its own, so that threads do not slow one another down.
#[repr(align(128))]
struct Counter(AtomicU64);

/// More than the machine has processors, or some threads share a counter.
const COUNTERS: usize = 64;

static COUNTS: [Counter; COUNTERS] = [const { Counter(AtomicU64::new(0)) }; COUNTERS];
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The number of this thread; `None` before its first allocation.
    static THREAD: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The allocations of all threads so far.
pub fn count() -> u64 {
    COUNTS.iter().map(|counter| counter.0.load(Relaxed)).sum()
}

fn note() {
    let thread = THREAD.try_with(|thread| {
        let number = thread.get().unwrap_or_else(|| THREADS.fetch_add(1, Relaxed));
        thread.set(Some(number));
        number
    });
    // A thread that is ending has lost its number.
    COUNTS[thread.unwrap_or_default() % COUNTERS].0.fetch_add(1, Relaxed);
}

// SAFETY: every call is passed on to the system's allocator, with the same arguments. Counting
// allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: see above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: see above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: see above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        note();
        // SAFETY: see above.
        unsafe { System.realloc(memory, layout, bytes) }
    }
}
