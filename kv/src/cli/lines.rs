//! A writer to standard output or standard error that never blocks the program.
//!
//! Standard error may be a pipe that is not read, a pipe whose reader is gone, or a file on a full
//! disk. A node has to continue in all three cases. So a separate thread writes the lines from a
//! bounded queue. A line that does not fit into the queue or cannot be written is lost and counted.
//! The count is written as a separate line once writing works again.
//!
//! Existing writers were not used because they bound the number of lines and not the bytes, and do
//! not report lost lines.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most bytes of lines that wait to be written.
const WAITING_BYTES_MAX: usize = 1 << 20;
/// How long [`Lines::flush`] waits.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// A writer that never blocks and never fails. Clones share one queue.
#[derive(Clone)]
pub struct Lines {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines lost since the last one that was written.
    lost: u64,
    /// The thread has taken lines from the queue and is writing them.
    writing: bool,
}

impl Lines {
    /// Starts the thread that writes lines to `to`.
    pub fn start(name: &str, to: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let lines = Lines { shared: shared.clone() };
        std::thread::Builder::new().name(name.into()).spawn(move || shared.write_to(to))?;
        Ok(lines)
    }

    /// Adds a line, which must end with a newline. If the queue is full, the line is lost and
    /// counted.
    pub fn add(&self, line: &[u8]) {
        let mut queue = self.shared.lock();
        if queue.bytes + line.len() > WAITING_BYTES_MAX {
            queue.lost += 1;
            return;
        }
        queue.bytes += line.len();
        queue.lines.push_back(line.to_vec());
        self.shared.changed.notify_all();
    }

    /// Waits until all lines are written, for at most a second: the reader may have stopped
    /// reading.
    pub fn flush(&self) {
        let deadline = Instant::now() + FLUSH_TIMEOUT;
        let mut queue = self.shared.lock();
        while queue.writing || !queue.lines.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.shared.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// One call is one line: tracing's formatter writes each line with one call.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.add(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loop of the writer thread. Runs until the process ends.
    fn write_to(&self, mut to: impl Write) {
        loop {
            let mut queue = self.lock();
            while queue.lines.is_empty() {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            let lines = std::mem::take(&mut queue.lines);
            queue.writing = true;
            drop(queue);
            for line in lines {
                let lost = std::mem::take(&mut self.lock().lost);
                let written = note(&mut to, lost).and_then(|()| to.write_all(&line));
                let mut queue = self.lock();
                // A line counts in the queue until it is written.
                queue.bytes -= line.len();
                if written.is_err() {
                    queue.lost += lost + 1;
                }
            }
            let _ = to.flush();
            self.lock().writing = false;
            self.changed.notify_all();
        }
    }
}

fn note(to: &mut impl Write, lost: u64) -> io::Result<()> {
    match lost {
        0 => Ok(()),
        lost => writeln!(to, "raft-kv lost {lost} lines here: they could not be written in time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Fails a given number of times, then writes.
    struct Failing(u32, mpsc::Sender<Vec<u8>>);

    impl Write for Failing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 > 0 {
                self.0 -= 1;
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let _ = self.1.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_the_count_is_written_later() {
        let (written, lines) = mpsc::channel();
        let writer = Lines::start("test", Failing(2, written)).unwrap();
        for line in ["one\n", "two\n", "three\n"] {
            writer.add(line.as_bytes());
            writer.flush();
        }
        let all: Vec<u8> = lines.try_iter().flatten().collect();
        let text = String::from_utf8(all).unwrap();
        assert!(text.contains("lost 2 lines") && text.ends_with("three\n"), "{text}");
        assert!(!text.contains("one"), "{text}");
    }

    /// Announces its first write, which blocks until the test ends, as on a full pipe that nobody
    /// reads.
    struct Stuck(mpsc::Sender<()>, mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            let _ = self.0.send(());
            let _ = self.1.recv();
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_stopped_holds_up_nobody_and_costs_bounded_memory() {
        const LINES: usize = 10_000;
        let ((begun, begins), (_end, ends)) = (mpsc::channel(), mpsc::channel());
        let lines = Lines::start("test", Stuck(begun, ends)).unwrap();
        let line = [b'x'; 1000];
        lines.add(&line);
        // From here on the writer's thread takes no line and no count.
        begins.recv().unwrap();
        let adding = lines.clone();
        let (done, is_done) = mpsc::channel();
        std::thread::spawn(move || {
            (0..LINES).for_each(|_| adding.add(&line));
            adding.flush();
            let _ = done.send(());
        });
        // Somebody who is held up waits for ever. The limit only keeps the test from doing so.
        is_done.recv_timeout(Duration::from_secs(120)).expect("nobody is held up");
        let queue = lines.shared.lock();
        // The line that is being written counts too.
        let room = WAITING_BYTES_MAX / line.len() - 1;
        assert_eq!((queue.lines.len(), queue.lost), (room, (LINES - room) as u64));
        assert_eq!(queue.bytes, (room + 1) * line.len());
    }
}
