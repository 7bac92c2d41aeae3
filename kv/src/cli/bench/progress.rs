//! The progress bar: elapsed part of the run, and current throughput.

use super::worker::Shared;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::Arc;
use std::time::Duration;

/// The interval at which the bar is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(200);
/// The resolution of the bar, in steps.
const STEPS: u64 = 1000;

/// A bar on the terminal, until [`Bar::finish`].
pub struct Bar {
    bar: ProgressBar,
    drawing: tokio::task::JoinHandle<()>,
}

/// Shows the bar on standard error, if that is a terminal and `quiet` is false.
pub fn show(shared: &Arc<Shared>, quiet: bool) -> Bar {
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(STEPS), target);
    let style = ProgressStyle::with_template("{elapsed:>4} [{bar:30}] {percent:>3} %  {msg}")
        .expect("the template is fixed and right");
    bar.set_style(style.progress_chars("=> "));
    let drawing = tokio::spawn(draw(bar.clone(), shared.clone()));
    Bar { bar, drawing }
}

impl Bar {
    /// Removes the bar.
    pub fn finish(self) {
        self.drawing.abort();
        self.bar.finish_and_clear();
    }
}

async fn draw(bar: ProgressBar, shared: Arc<Shared>) {
    let mut before = (shared.started, 0);
    loop {
        tokio::time::sleep(DRAW_EVERY).await;
        let now = tokio::time::Instant::now();
        let (done, errors) = shared.counts();
        let rate = (done - before.1) as f64 / (now - before.0).as_secs_f64();
        before = (now, done);
        let part = (now - shared.started).as_secs_f64() / shared.duration.as_secs_f64();
        bar.set_position(((part * STEPS as f64) as u64).min(STEPS));
        bar.set_message(format!("{rate:.0} done/s, {done} done, {errors} errors"));
    }
}
