//! What an operator is told: news, and seldom the same thing again. A fault that lasts for hours is a
//! line at its beginning, one at its end, and now and then a reminder.

use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// A fault that lasts is reported again after this.
pub(crate) const REMIND_AFTER: Duration = Duration::from_secs(600);
/// Different reports that are remembered. Beyond, none is made until one has become old.
const REPORTS_MAX: usize = 32;

/// Reports that have been made lately.
#[derive(Debug, Default)]
pub(crate) struct Repeats(BTreeMap<String, Instant>);

impl Repeats {
    /// Whether `what` has not been reported lately. It counts as reported from now on.
    pub fn is_news(&mut self, what: &str) -> bool {
        let now = Instant::now();
        self.0.retain(|_, reported| now.duration_since(*reported) < REMIND_AFTER);
        if self.0.contains_key(what) || self.0.len() >= REPORTS_MAX {
            return false;
        }
        self.0.insert(what.to_owned(), now);
        true
    }

    /// Forgets all: whatever comes next is news. Whether there was anything.
    pub fn clear(&mut self) -> bool {
        let any = !self.0.is_empty();
        self.0.clear();
        any
    }
}

/// A peer that cannot be reached for less than this after the start is not reported: nodes of a
/// cluster start one after another.
const START_GRACE: Duration = Duration::from_secs(5);
/// A peer that breaks off again sooner counts as not having been back.
const STEADY: Duration = Duration::from_secs(10);

/// Whether a peer can be reached, as the operator is told.
#[derive(Debug)]
pub(crate) struct Reach {
    made: Instant,
    /// Since when it cannot be reached.
    away: Option<Instant>,
    /// Since when it can.
    back: Option<Instant>,
    reported: Repeats,
}

impl Reach {
    /// A peer that has not been tried yet.
    pub fn new() -> Self {
        Reach { made: Instant::now(), away: None, back: None, reported: Repeats::default() }
    }

    /// It cannot be reached, for a reason of this kind. Whether that is to be reported.
    pub fn is_away(&mut self, kind: &str) -> bool {
        let now = Instant::now();
        if self.back.take().is_some_and(|back| now.duration_since(back) > STEADY) {
            self.away = None;
            self.reported.clear();
        }
        self.away.get_or_insert(now);
        now.duration_since(self.made) >= START_GRACE && self.reported.is_news(kind)
    }

    /// It can be reached. How long it could not, if that was reported.
    pub fn is_back(&mut self) -> Option<Duration> {
        let now = Instant::now();
        self.back = Some(now);
        let away = now.duration_since(self.away?);
        // The end of what was reported is reported once, and not each time a link flaps.
        let is_reported = !self.reported.0.is_empty() && self.reported.is_news("back");
        is_reported.then_some(away)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

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
