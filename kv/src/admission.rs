//! How many requests are worked on at once, and whose.
//!
//! Beyond what keeps the disk and the processors busy, more requests at once only wait longer: the
//! number of places decides how long those that have one take. How many are useful depends on the
//! machine, so it is found out. While requests take several times as long as they do on a node with
//! little to do, places are taken away; while they do not, and all are in use, there are more.
//!
//! If more than half of the places are taken, a client address has no more than its share of them.
//! One that has less than its share finds a place even then if all are taken. Clients on this
//! machine have one address together.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// There are always at least this many places: enough for the writes to share what the disk does.
const PLACES_MIN: usize = 32;
/// How long requests take on a node with little to do, until that is known.
const EASY_FIRST: Duration = Duration::from_millis(2);
/// Requests take too long if they take this many times as long as on a node with little to do.
const SLOWDOWN_MAX: u32 = 3;
/// But not while they take less than this.
const TIME_MIN: Duration = Duration::from_millis(10);
/// The number of places is looked at again after this time, and at least this many requests.
const WINDOW: Duration = Duration::from_millis(50);
const WINDOW_REQUESTS: u64 = 16;
/// One of this many places is taken away or added at a time.
const STEP: usize = 8;
/// For clients that have less than their share there is one more place for each of this many.
const RESERVE: usize = 4;

/// The places for requests that are worked on.
#[derive(Debug)]
pub(crate) struct Admission {
    max: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Places that there are now.
    places: usize,
    taken: usize,
    /// Of which each client address has these. There are no more addresses than taken places.
    by_source: BTreeMap<Option<IpAddr>, usize>,
    /// How long requests take on a node with little to do.
    easy: Duration,
    window: Window,
}

/// What has been seen since the number of places was last looked at.
#[derive(Debug, Default)]
struct Window {
    began_ns: u64,
    requests: u64,
    time: Duration,
    taken_most: usize,
}

/// A place. Given back with [`Admission::leave`], or when it is dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    admission: Arc<Admission>,
    source: Option<IpAddr>,
    began_ns: u64,
    /// When it was done, if it was.
    ended_ns: Option<u64>,
}

impl Admission {
    /// At most this many places.
    pub fn new(places_max: usize) -> Arc<Self> {
        let state = State {
            places: places_max,
            taken: 0,
            by_source: BTreeMap::new(),
            easy: EASY_FIRST,
            window: Window::default(),
        };
        Arc::new(Admission { max: places_max, state: Mutex::new(state) })
    }

    /// A place for a request from this address, if there is one.
    pub fn enter(self: &Arc<Self>, source: Option<IpAddr>, now_ns: u64) -> Option<Admitted> {
        let mut state = self.state();
        let own = state.by_source.get(&source).copied().unwrap_or(0);
        let sources = state.by_source.len() + usize::from(own == 0);
        let share = (state.places / sources).max(1);
        let has_less = own < share;
        let places = match has_less && sources > 1 {
            true => state.places + (state.places / RESERVE).max(1),
            false => state.places,
        };
        let is_greedy = !has_less && sources > 1 && state.taken >= state.places / 2;
        if state.taken >= places || is_greedy {
            state.window.taken_most = state.places;
            return None;
        }
        state.taken += 1;
        state.window.taken_most = state.window.taken_most.max(state.taken);
        *state.by_source.entry(source).or_default() += 1;
        Some(Admitted { admission: self.clone(), source, began_ns: now_ns, ended_ns: None })
    }

    /// How many places there are now, and how many are taken.
    pub fn places(&self) -> (usize, usize) {
        let state = self.state();
        (state.places, state.taken)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admitted {
    /// The request is done.
    pub fn leave(mut self, now_ns: u64) {
        self.ended_ns = Some(now_ns);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut state = self.admission.state();
        state.taken -= 1;
        if let Some(own) = state.by_source.get_mut(&self.source) {
            *own -= 1;
            if *own == 0 {
                state.by_source.remove(&self.source);
            }
        }
        if let Some(now_ns) = self.ended_ns {
            let time = Duration::from_nanos(now_ns.saturating_sub(self.began_ns));
            state.note(time, now_ns, self.admission.max);
        }
    }
}

impl State {
    /// A request took this long.
    fn note(&mut self, time: Duration, now_ns: u64, max: usize) {
        let window = &mut self.window;
        window.requests += 1;
        window.time += time;
        let passed = Duration::from_nanos(now_ns.saturating_sub(window.began_ns));
        if passed < WINDOW || window.requests < WINDOW_REQUESTS {
            return;
        }
        let mean = window.time / u32::try_from(window.requests).unwrap_or(u32::MAX);
        let taken_most = window.taken_most;
        self.window = Window { began_ns: now_ns, taken_most: self.taken, ..Window::default() };
        if taken_most < PLACES_MIN / 2 {
            self.easy = (self.easy * 3 + mean) / 4;
        }
        let step = (self.places / STEP).max(1);
        if mean > (self.easy * SLOWDOWN_MAX).max(TIME_MIN) {
            self.places = (self.places - step).max(PLACES_MIN.min(max));
        } else if taken_most >= self.places {
            self.places = (self.places + step).min(max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Works for a while with all places taken, each request for this time.
    fn work(admission: &Arc<Admission>, now_ns: &mut u64, time_ms: u64, rounds: usize) {
        for _ in 0..rounds {
            let mut all = Vec::new();
            while let Some(admitted) = admission.enter(None, *now_ns) {
                all.push(admitted);
            }
            *now_ns += time_ms * MS;
            all.into_iter().for_each(|admitted| admitted.leave(*now_ns));
        }
    }

    #[test]
    fn there_are_fewer_places_while_requests_take_long_and_more_when_they_do_not() {
        let admission = Admission::new(256);
        let mut now_ns = 0;
        work(&admission, &mut now_ns, 40, 100);
        assert_eq!(admission.places(), (PLACES_MIN, 0));
        work(&admission, &mut now_ns, 4, 1000);
        assert_eq!(admission.places(), (256, 0));
        // A small setting is kept.
        let admission = Admission::new(3);
        work(&admission, &mut now_ns, 40, 100);
        assert_eq!(admission.places(), (3, 0));
    }

    #[test]
    fn where_requests_take_long_in_any_case_there_are_many_places() {
        let admission = Admission::new(256);
        let mut now_ns = 0;
        // A slow disk, with little to do.
        for _ in 0..400 {
            let admitted = admission.enter(None, now_ns).unwrap();
            now_ns += 20 * MS;
            admitted.leave(now_ns);
        }
        work(&admission, &mut now_ns, 40, 100);
        assert_eq!(admission.places(), (256, 0));
    }

    #[test]
    fn a_greedy_client_leaves_their_share_to_the_others() {
        let admission = Admission::new(64);
        let greedy = Some(IpAddr::from([10, 0, 0, 1]));
        let modest = Some(IpAddr::from([10, 0, 0, 2]));
        let mut all: Vec<_> = std::iter::from_fn(|| admission.enter(greedy, 0)).collect();
        assert_eq!(all.len(), 64, "alone, it has everything");
        let mut few: Vec<_> = (0..16).map_while(|_| admission.enter(modest, 0)).collect();
        assert_eq!(few.len(), 16, "another finds places nevertheless");
        // For each place that it gives up, the greedy client gets none until it has its share.
        for _ in 0..32 {
            all.pop();
            assert!(admission.enter(greedy, 0).is_none());
        }
        few.extend((0..16).map_while(|_| admission.enter(modest, 0)));
        assert_eq!((all.len(), few.len()), (32, 32));
        assert!(admission.enter(greedy, 0).is_none() && admission.enter(modest, 0).is_none());
        drop((all, few));
        assert_eq!(admission.places(), (64, 0));
        assert!(admission.state().by_source.is_empty());
    }
}
