//! A picture of a run: one self-contained page of HTML and SVG, without external resources.
//!
//! From the top it shows:
//!
//! - the promise that was broken, and its meaning;
//! - the story: a numbered list of the moments that concern the nodes, entries and terms that the
//!   violation is about;
//! - the whole run in a strip;
//! - the last moments in detail, with the numbers of the story;
//! - the logs of all nodes side by side;
//! - the last events as text.
//!
//! Time goes from left to right. Red marks the place where the promise was broken.
//!
//! All elements are drawn here, for the initial window of time, so that the page can be read
//! without scripts and printed. Elements outside of the window are present and hidden; the script
//! only moves, hides and shows them.
//!
//! It is neither a check nor a log viewer. It shows one run, up to its end.

mod detail;
mod head;
mod lanes;
mod list;
mod logs;
mod messages;
mod overview;
mod scale;
mod story;
mod strikes;
mod words;

pub use words::{summary, swarm};

use crate::plan::Plan;
use crate::timeline::Timeline;
use crate::world::Run;
use scale::Scale;
use std::fmt::Write as _;
use story::Story;

/// Maximum size of a page: larger ones slow browsers down and get lost in mail.
pub const PAGE_BYTES_MAX: usize = 5_000_000;

/// The part of that for all messages except heartbeats, acknowledgements and reads.
const TELLING_BYTES: usize = 2_200_000;

/// The part for heartbeats, acknowledgements and reads.
const FAINT_BYTES: usize = 1_200_000;

/// The part for each other kind of element: syncs, steps of the logs, operations.
const PART_BYTES: usize = 400_000;

/// Number of messages in the initial window, if possible.
const FIRST_MESSAGES: usize = 160;

/// Width of the picture. A browser scales it as a whole.
const WIDTH: f64 = 1_560.0;

/// Room for the names of the lanes.
const LEFT: f64 = 150.0;

/// Room beyond the end of the run.
const RIGHT: f64 = 30.0;

/// The input of all parts of a page.
struct Picture<'a> {
    plan: &'a Plan,
    run: &'a Run,
    timeline: &'a Timeline,
    story: Story,
    /// The initial window.
    first: Scale,
    end_us: u64,
}

/// Draws the page of a recorded run. `again` are the commands that repeat it.
pub fn page(plan: &Plan, run: &Run, again: &[String]) -> String {
    let timeline = &run.timeline;
    let story = Story::of(run);
    let end_us = run.time_us.max(1);
    let (from_us, to_us) = match story.operations_us {
        Some((from_us, to_us)) => (from_us, to_us.min(end_us)),
        None => (first_window(timeline, &story, end_us), end_us),
    };
    // A margin, so that the last moment is not on the edge.
    let to_us = to_us + to_us.saturating_sub(from_us) / 40 + 1;
    let first = Scale::new(from_us, to_us, LEFT, WIDTH - RIGHT);
    let picture = Picture { plan, run, timeline, story, first, end_us };
    let mut page =
        String::from("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    let title =
        run.violation.as_ref().map_or("no promise was broken", |broken| broken.check.name());
    let _ = write!(page, "<title>{}</title>", scale::escape(title));
    let _ = write!(page, "<style>{}</style></head>\n<body>", include_str!("page/page.css"));
    picture.write_head(&mut page, again);
    picture.write_story(&mut page);
    picture.write_overview(&mut page);
    picture.write_detail(&mut page);
    picture.write_logs(&mut page);
    picture.write_list(&mut page);
    let _ = write!(page, "<script>{}</script>", include_str!("page/page.js"));
    page.push_str("</body></html>\n");
    page
}

/// The start of the initial window. It includes the story, unless the messages in between are too
/// many to be told apart.
fn first_window(timeline: &Timeline, story: &Story, end_us: u64) -> u64 {
    let ends = |flight: &crate::timeline::Flight| flight.arrived.map_or(flight.sent_us, |at| at.0);
    let mut times: Vec<u64> = timeline.flights.iter().map(ends).collect();
    times.sort_unstable();
    let nth_last = |n: usize| times.get(times.len().saturating_sub(n)).copied().unwrap_or(0);
    let (widest, narrowest) = (nth_last(FIRST_MESSAGES), nth_last(FIRST_MESSAGES / 4));
    let told = story.items.iter().map(|item| item.at_us).filter(|at_us| *at_us >= widest).min();
    let from_us = told.unwrap_or(narrowest).min(narrowest);
    // A margin here too.
    from_us.saturating_sub((end_us - from_us.min(end_us)) / 20).min(end_us - 1)
}
