//! The queue of future events, ordered by time. Events of the same time keep the order in which
//! they were pushed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The heap holds small keys. The events stay in place in `slots`, which are reused.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    heap: BinaryHeap<Reverse<(u64, u64, usize)>>,
    slots: Vec<Option<E>>,
    free: Vec<usize>,
    pushed: u64,
}

impl<E> Queue<E> {
    pub fn new() -> Self {
        Queue { heap: BinaryHeap::new(), slots: Vec::new(), free: Vec::new(), pushed: 0 }
    }

    pub fn push(&mut self, at_us: u64, event: E) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = Some(event);
                slot
            }
            None => {
                self.slots.push(Some(event));
                self.slots.len() - 1
            }
        };
        self.pushed += 1;
        self.heap.push(Reverse((at_us, self.pushed, slot)));
    }

    /// Removes and returns the events after `after_us` for which `drop` returns true.
    pub fn take_out(&mut self, after_us: u64, drop: impl Fn(&E) -> bool) -> Vec<E> {
        let mut taken = Vec::new();
        let heap = std::mem::take(&mut self.heap);
        let kept = heap.into_vec().into_iter().filter(|Reverse((at_us, _, slot))| {
            let goes = *at_us > after_us && self.slots[*slot].as_ref().is_some_and(&drop);
            if goes {
                taken.extend(self.slots[*slot].take());
                self.free.push(*slot);
            }
            !goes
        });
        self.heap = kept.collect();
        taken
    }

    pub fn pop(&mut self) -> Option<(u64, E)> {
        let Reverse((at_us, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        self.slots[slot].take().map(|event| (at_us, event))
    }
}
