//! Where the transfers of snapshots are cut off, and the sizes of their chunks.
//!
//! A connection that loses a piece breaks now and then (`transfer.rs`). But the states of a
//! simulation are small, and a transfer of one chunk leaves no part. So in half of the runs the
//! first chunk of a transfer may have a few bytes, each later one is twice as large, and many
//! transfers break at a chunk that is drawn here. These draws have streams of their own, so that
//! they change nothing in the other runs.

use simulator::random::{Purpose, Stream};

/// The size of the first chunk of a transfer.
const FIRST_BYTES: [usize; 3] = [4, 64, 1_000];
/// The largest chunk, as in the product.
const CHUNK_BYTES_MAX: usize = 256 << 10;
/// A transfer that is cut off breaks within one of this many first chunks.
const CHUNKS_MAX: u64 = 12;

/// How transfers are cut off in a run.
#[derive(Debug)]
pub(crate) struct Cuts {
    draw: Stream,
    /// One transfer in this many is cut off. `None`: chunks are large.
    one_in: Option<u64>,
}

/// How one transfer goes.
#[derive(Debug)]
pub(crate) struct Cut {
    chunk_bytes: usize,
    /// The chunks before the one within which the connection breaks, if it does.
    left: Option<u64>,
}

impl Cuts {
    pub fn of(seed: u64) -> Self {
        let mut draw = Stream::new(seed, Purpose::Cuts, 0);
        let one_in = draw.pick(&[None, None, Some(1), Some(2)]);
        Cuts { draw, one_in }
    }

    /// Draws a transfer. `None` if it goes as in the runs without cuts. After the faults nothing is
    /// cut off.
    pub fn next(&mut self, calm: bool) -> Option<Cut> {
        let one_in = self.one_in?;
        let chunk_bytes = self.draw.pick(&FIRST_BYTES);
        let (is_cut, left) = (self.draw.below(one_in) == 0, self.draw.below(CHUNKS_MAX));
        Some(Cut { chunk_bytes, left: (is_cut && !calm).then_some(left) })
    }
}

impl Cut {
    /// The size of the next chunk, and whether the connection breaks within it.
    pub fn next_chunk(&mut self) -> (usize, bool) {
        let chunk_bytes = self.chunk_bytes;
        self.chunk_bytes = (2 * chunk_bytes).min(CHUNK_BYTES_MAX);
        let breaks = self.left == Some(0);
        self.left = self.left.and_then(|left| left.checked_sub(1));
        (chunk_bytes, breaks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_grow_until_the_connection_breaks() {
        let mut cut = Cut { chunk_bytes: 64, left: Some(2) };
        let chunks: Vec<(usize, bool)> = (0..3).map(|_| cut.next_chunk()).collect();
        assert_eq!(chunks, [(64, false), (128, false), (256, true)]);
        let mut whole = Cut { chunk_bytes: 200_000, left: None };
        assert_eq!(whole.next_chunk(), (200_000, false));
        assert_eq!(whole.next_chunk(), (CHUNK_BYTES_MAX, false));
    }

    #[test]
    fn after_the_faults_nothing_is_cut_off() {
        let mut cuts = Cuts { draw: Stream::new(1, Purpose::Cuts, 0), one_in: Some(1) };
        assert!(cuts.next(false).is_some_and(|cut| cut.left.is_some()));
        assert!(cuts.next(true).is_some_and(|cut| cut.left.is_none()));
    }
}
