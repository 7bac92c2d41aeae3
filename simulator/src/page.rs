//! A picture of a run: one self-contained page, HTML and SVG, without anything from elsewhere.
//!
//! It is read from the top: which promise was broken and what that means; what led to it, a numbered
//! list of the moments that concern the nodes, entries and terms which the check names; the whole run
//! in a strip; the last moments in detail, with the numbers of the list in it; the logs of all nodes
//! side by side; the last events as text. Time goes from left to right, and red is where it broke.
//!
//! Everything that is drawn is drawn here, for the window of time that is shown first, so that the page
//! can be read without scripts and printed. What lies outside of the window is there and hidden; the
//! script only moves, hides and shows.
//!
//! What it is not: no check, and no log viewer. It shows one run, and ends where the run ended.

mod detail;
mod head;
mod lanes;
mod list;
mod logs;
mod messages;
mod names;
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

/// A page is never larger: some browsers get slow, and mails get lost.
pub const PAGE_BYTES_MAX: usize = 5_000_000;

/// Of that, so much is for messages that say something.
const TELLING_BYTES: usize = 2_200_000;

/// So much for heartbeats and acknowledgements.
const FAINT_BYTES: usize = 1_200_000;

/// So much for each other kind of thing that is drawn: syncs, steps of the logs, operations.
const PART_BYTES: usize = 400_000;

/// The window that is shown first has so many messages, if it can.
const FIRST_MESSAGES: usize = 160;

/// The picture is so wide. Nothing is stretched: a browser scales it as a whole.
const WIDTH: f64 = 1_560.0;

/// Room for the names of the lanes.
const LEFT: f64 = 150.0;

/// Room beyond the end of the run.
const RIGHT: f64 = 30.0;

/// Everything that the parts of a page are drawn from.
struct Picture<'a> {
    plan: &'a Plan,
    run: &'a Run,
    timeline: &'a Timeline,
    story: Story,
    /// The window that is shown first.
    first: Scale,
    end_us: u64,
}

/// The page of a run that was recorded. `again` are commands that run it again.
pub fn page(plan: &Plan, run: &Run, again: &[String]) -> String {
    let timeline = &run.timeline;
    let story = Story::of(run);
    let end_us = run.time_us.max(1);
    let (from_us, to_us) = match story.operations_us {
        Some((from_us, to_us)) => (from_us, to_us.min(end_us)),
        None => (first_window(timeline, &story, end_us), end_us),
    };
    // A little room, so that what happens last is not on the edge.
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

/// From where the end of the run is shown first: so that what led to it is in it, as far as the
/// messages between are few enough to be told apart.
fn first_window(timeline: &Timeline, story: &Story, end_us: u64) -> u64 {
    let ends = |flight: &crate::timeline::Flight| flight.arrived.map_or(flight.sent_us, |at| at.0);
    let mut times: Vec<u64> = timeline.flights.iter().map(ends).collect();
    times.sort_unstable();
    let nth_last = |n: usize| times.get(times.len().saturating_sub(n)).copied().unwrap_or(0);
    let (widest, narrowest) = (nth_last(FIRST_MESSAGES), nth_last(FIRST_MESSAGES / 4));
    let told = story.items.iter().map(|item| item.at_us).filter(|at_us| *at_us >= widest).min();
    let from_us = told.unwrap_or(narrowest).min(narrowest);
    // Not on the very edge, either.
    from_us.saturating_sub((end_us - from_us.min(end_us)) / 20).min(end_us - 1)
}
