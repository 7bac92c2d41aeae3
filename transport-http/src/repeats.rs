//! Limits repeated log lines. A fault that lasts for hours is logged when it begins and when it
//! ends, with a reminder from time to time.

use crate::founders::is_visible;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// A fault that lasts is reported again after this time.
pub(crate) const REMIND_AFTER: Duration = Duration::from_secs(600);
/// The most reports that are remembered. At this limit, a new report is suppressed until an old one
/// expires.
const REPORTS_MAX: usize = 32;

/// The reports of the last [`REMIND_AFTER`].
#[derive(Debug, Default)]
pub(crate) struct Repeats(BTreeMap<String, Instant>);

impl Repeats {
    /// Whether `what` has not been reported lately, and may be now. If so, it counts as reported
    /// from now on.
    pub fn is_news(&mut self, what: &str) -> bool {
        let now = Instant::now();
        self.0.retain(|_, reported| now.duration_since(*reported) < REMIND_AFTER);
        if self.0.contains_key(what) || self.0.len() >= REPORTS_MAX {
            return false;
        }
        self.0.insert(what.to_owned(), now);
        true
    }

    /// Forgets all reports, so that each next one is news. Returns whether there were any.
    pub fn clear(&mut self) -> bool {
        let any = !self.0.is_empty();
        self.0.clear();
        any
    }
}

/// A peer that is unreachable is not reported for this long after the start: the nodes of a cluster
/// start one after another.
const START_GRACE: Duration = Duration::from_secs(5);
/// A peer that was back for a shorter time than this counts as never back: its next outage is news
/// only if its reason is.
const STEADY: Duration = Duration::from_secs(10);

/// Whether a peer is reachable, and which of its changes are reported to the operator.
#[derive(Debug)]
pub(crate) struct Reach {
    made: Instant,
    /// When it became unreachable.
    away: Option<Instant>,
    /// When it became reachable again.
    back: Option<Instant>,
    reported: Repeats,
}

impl Reach {
    /// A peer that was not dialled yet.
    pub fn new() -> Self {
        Reach { made: Instant::now(), away: None, back: None, reported: Repeats::default() }
    }

    /// Records that the peer is unreachable, for a reason of this kind. Returns whether to report
    /// it.
    pub fn is_away(&mut self, kind: &str) -> bool {
        let now = Instant::now();
        if let Some(back) = self.back.take() {
            // An outage lasts from this loss on, also if the one before was short ago.
            self.away = None;
            if now.duration_since(back) > STEADY {
                self.reported.clear();
            }
        }
        self.away.get_or_insert(now);
        now.duration_since(self.made) >= START_GRACE && self.reported.is_news(kind)
    }

    /// Records that the peer is reachable. Returns how long it was not, if the end of an outage is
    /// to be reported.
    pub fn is_back(&mut self) -> Option<Duration> {
        let now = Instant::now();
        self.back = Some(now);
        let away = now.duration_since(self.away?);
        // The end of an outage is reported once, and not each time that a link flaps.
        let is_reported = !self.reported.0.is_empty() && self.reported.is_news("back");
        is_reported.then_some(away)
    }
}

/// The most characters of a text of a peer in a line of the log.
const ONE_LINE_CHARS_MAX: usize = 500;

/// A text of a peer, for a line of the log: a peer could otherwise forge further lines.
pub(crate) fn one_line(text: &[u8]) -> String {
    let plain = |c: char| if is_visible(c) || c == ' ' { c } else { '?' };
    String::from_utf8_lossy(text).chars().take(ONE_LINE_CHARS_MAX).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[test]
    fn a_text_of_a_peer_is_one_short_line() {
        assert_eq!(one_line("a\nb\x1b[2Jé\u{202e}".as_bytes()), "a?b?[2Jé?");
        assert_eq!(one_line(&[b'x'; 64 << 10]).len(), ONE_LINE_CHARS_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn what_lasts_is_reported_once_and_then_now_and_then() {
        let mut reports = Repeats::default();
        let mut lines = 0;
        for _ in 0..3600 {
            lines += u32::from(reports.is_news("no answer"));
            advance(Duration::from_secs(1)).await;
        }
        assert_eq!(lines, 6, "one each ten minutes");
        assert!(reports.is_news("connection refused"), "another reason is news");
    }

    #[tokio::test(start_paused = true)]
    async fn different_reports_are_bounded() {
        let mut reports = Repeats::default();
        let lines = (0..1000).filter(|n| reports.is_news(&n.to_string())).count();
        assert_eq!(lines, REPORTS_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_that_starts_reports_nothing() {
        let mut reach = Reach::new();
        for _ in 0..40 {
            assert!(!reach.is_away("connection refused"));
            advance(Duration::from_millis(100)).await;
        }
        assert_eq!(reach.is_back(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_goes_and_comes_back_is_two_lines() {
        let mut reach = Reach::new();
        reach.is_back();
        advance(Duration::from_secs(60)).await;
        assert!(reach.is_away("no answer"));
        for _ in 0..300 {
            advance(Duration::from_secs(1)).await;
            assert!(!reach.is_away("no answer"));
        }
        assert!(reach.is_away("connection refused"), "another reason");
        assert!(reach.is_back().is_some_and(|away| away >= Duration::from_secs(300)));
        advance(Duration::from_secs(60)).await;
        assert!(reach.is_away("no answer"), "a new outage is news");
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_counts_from_its_own_loss_and_not_from_that_of_the_start() {
        let mut reach = Reach::new();
        assert!(!reach.is_away("connection refused"), "the peer starts a little later");
        advance(Duration::from_secs(1)).await;
        assert_eq!(reach.is_back(), None);
        advance(Duration::from_secs(8)).await;
        assert!(reach.is_away("broken"));
        advance(Duration::from_millis(300)).await;
        assert_eq!(reach.is_back(), Some(Duration::from_millis(300)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_flaps_does_not_fill_the_log() {
        let mut reach = Reach::new();
        advance(START_GRACE).await;
        let mut lines = 0;
        for _ in 0..300 {
            lines += u32::from(reach.is_away("no answer"));
            lines += u32::from(reach.is_back().is_some());
            advance(Duration::from_secs(1)).await;
        }
        assert_eq!(lines, 2);
    }
}
