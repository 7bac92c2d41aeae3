//! The output of a hunt: a line of progress, and at the end, also after Ctrl-C, the result.

use indicatif::{ProgressBar, ProgressStyle};
use simulator::{Failed, Marks};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The interval between lines if the output is not a terminal.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// The progress line of a hunt.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    printed: Instant,
    bar: ProgressBar,
    stop: Arc<AtomicBool>,
}

impl Progress {
    /// Begins a hunt. From here on the first Ctrl-C requests a stop. The second ends the process at
    /// once, even while a failing plan is being shrunk.
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

    /// The flag that is set when the hunt must stop.
    pub fn stop(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// The time since the beginning of the hunt.
    pub fn passed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Shows a line of progress.
    pub fn show(&mut self, line: impl FnOnce(Duration) -> String) {
        if !self.bar.is_hidden() {
            self.bar.set_message(line(self.passed()));
        } else if self.printed.elapsed() >= LINE_EVERY {
            self.printed = Instant::now();
            eprintln!("{}", line(self.passed()));
        }
    }

    /// Ends the hunt: prints the marks, those that were missed, and the failure if there is one.
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
