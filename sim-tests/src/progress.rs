//! What whoever hunts sees of it: a line that tells how far it has come, and in the end, after Ctrl-C
//! too, what it came to.

use indicatif::{ProgressBar, ProgressStyle};
use simulator::{Failed, Marks};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often a line is printed where nobody watches a terminal.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// The line of a hunt.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    printed: Instant,
    bar: ProgressBar,
    stop: Arc<AtomicBool>,
}

impl Progress {
    /// A hunt begins. From here on Ctrl-C asks it to stop, and ends it at once the second time: a
    /// failing plan may be being shrunk.
    pub fn begin() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let handled = ctrlc::set_handler(move || {
            if asked.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
        });
        if let Err(error) = handled {
            eprintln!("Ctrl-C will end the hunt without a summary: {error}");
        }
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} {msg}");
        bar.set_style(style.expect("a constant template"));
        bar.enable_steady_tick(Duration::from_millis(200));
        let started = Instant::now();
        Progress { started, printed: started, bar, stop }
    }

    /// Set when the hunt is to stop.
    pub fn stop(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// How long it has gone on.
    pub fn passed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Shows how far it has come.
    pub fn show(&mut self, line: impl FnOnce(Duration) -> String) {
        if !self.bar.is_hidden() {
            self.bar.set_message(line(self.passed()));
        } else if self.printed.elapsed() >= LINE_EVERY {
            self.printed = Instant::now();
            eprintln!("{}", line(self.passed()));
        }
    }

    /// The hunt is over: says what happened in it, what never did, and what was found.
    pub fn end(
        self,
        line: &str,
        marks: &Marks,
        missed: &[&'static str],
        failure: Option<&Failed>,
    ) -> ExitCode {
        self.bar.finish_and_clear();
        println!("{line}");
        for (name, hits) in marks.all() {
            println!("{hits:>12}  {name}");
        }
        for name in missed {
            println!("       never  {name}");
        }
        match failure {
            Some(failure) => {
                println!("{failure}");
                ExitCode::FAILURE
            }
            None => ExitCode::SUCCESS,
        }
    }
}
