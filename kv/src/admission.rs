//! How many requests are worked on at once, and whose.
//!
//! Beyond what keeps the disk and the processors busy, more requests at once only wait longer: the
//! number of places decides how long those that have one take. How many are useful depends on the
//! machine, so it is found out. While requests take several times as long as they do on a node with
//! little to do, places are taken away; while they do not, and all are in use, there are more.
//!
//! A request without a place waits for one, for a short time, and is refused after that. This keeps
//! clients that ask again at once from asking more often than the node can refuse. The request that
//! has waited longest comes first, until one has waited for too long: from then on the newest comes
//! first. Under an overload that lasts, somebody has to be refused, and this way those that are
//! served have not waited long.
//!
//! If more than half of the places are taken, a client address has at most its share of them.
//! One that has less than its share finds a place even then if all are taken. Clients on this
//! machine have one address together.

use driver::Clock;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// There are always at least this many places: enough for the writes to share what the disk does.
const PLACES_MIN: usize = 32;
/// How long requests take on a node with little to do, until that is known.
const EASY_FIRST: Duration = Duration::from_millis(2);
/// Requests take too long if they take this many times as long as on a node with little to do.
const SLOWDOWN_MAX: u32 = 3;
/// But not while they take less than this.
const TIME_MIN: Duration = Duration::from_millis(25);
/// The interval at which the number of places is adjusted, and the least requests in between.
const WINDOW: Duration = Duration::from_millis(50);
const WINDOW_REQUESTS: u64 = 16;
/// One of this many places is taken away or added at a time.
const STEP: usize = 8;
/// For clients that have less than their share there is one more place for each of this many.
const RESERVE: usize = 4;
/// A request waits for a place for this time at most.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// Once a request has waited for longer than this, the newest comes first.
const PATIENCE: Duration = Duration::from_millis(25);
/// At most this many requests wait; others are refused at once.
const WAITING_MAX: usize = 4096;

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
    /// Requests that wait for a place, in the order of their arrival.
    waiting: BTreeMap<Option<IpAddr>, BTreeMap<u64, Waiting>>,
    waiting_count: usize,
    /// The number of the next request that waits.
    next_waiting: u64,
    /// The latest time that was noted.
    now_ns: u64,
    /// How long requests take on a node with little to do.
    easy: Duration,
    window: Window,
}

/// A request that waits for a place.
#[derive(Debug)]
struct Waiting {
    since_ns: u64,
    place: oneshot::Sender<Admitted>,
}

/// The outcome of asking for a place.
#[derive(Debug)]
enum Asked {
    Admitted(Admitted),
    /// Its number in the queue, and where its place arrives.
    Waits(u64, oneshot::Receiver<Admitted>),
    Refused,
}

/// Takes a request that waits for a place out of the queue when it is dropped.
struct Turn<'a> {
    admission: &'a Arc<Admission>,
    source: Option<IpAddr>,
    number: u64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.admission.state().forget(self.source, self.number);
    }
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
    /// It was offered to a client that had gone.
    is_refused: bool,
}

impl Admission {
    /// At most this many places.
    pub fn new(places_max: usize) -> Arc<Self> {
        let state = State {
            places: places_max,
            taken: 0,
            by_source: BTreeMap::new(),
            waiting: BTreeMap::new(),
            waiting_count: 0,
            next_waiting: 0,
            now_ns: 0,
            easy: EASY_FIRST,
            window: Window::default(),
        };
        Arc::new(Admission { max: places_max, state: Mutex::new(state) })
    }

    /// A place for a request from this address, or nothing if there is none for [`WAIT_MAX`].
    pub async fn enter(
        self: &Arc<Self>,
        source: Option<IpAddr>,
        clock: &dyn Clock,
    ) -> Option<Admitted> {
        let (number, mut place) = match self.ask(source, clock.now().monotonic_ns) {
            Asked::Admitted(admitted) => return Some(admitted),
            Asked::Waits(number, place) => (number, place),
            Asked::Refused => return None,
        };
        let turn = Turn { admission: self, source, number };
        let mut patience = clock.sleep(WAIT_MAX);
        let admitted = tokio::select! {
            biased;
            admitted = &mut place => admitted.ok(),
            () = &mut patience => None,
        };
        drop(turn);
        // A place may have been given between the two.
        admitted.or_else(|| place.try_recv().ok())
    }

    /// A place, if there is one, or the promise of one.
    fn ask(self: &Arc<Self>, source: Option<IpAddr>, now_ns: u64) -> Asked {
        let mut state = self.state();
        state.now_ns = state.now_ns.max(now_ns);
        if state.has_place(source) {
            return Asked::Admitted(self.admit(&mut state, source));
        }
        state.window.taken_most = state.places;
        if state.waiting_count >= WAITING_MAX {
            return Asked::Refused;
        }
        let (number, place) = state.wait(source);
        Asked::Waits(number, place)
    }

    fn admit(self: &Arc<Self>, state: &mut State, source: Option<IpAddr>) -> Admitted {
        state.taken += 1;
        state.window.taken_most = state.window.taken_most.max(state.taken);
        *state.by_source.entry(source).or_default() += 1;
        Admitted {
            admission: self.clone(),
            source,
            began_ns: state.now_ns,
            ended_ns: None,
            is_refused: false,
        }
    }

    /// Gives the places that are free to requests that wait.
    fn hand_on(self: &Arc<Self>) {
        loop {
            let (waiting, admitted) = {
                let mut state = self.state();
                let Some((source, waiting)) = state.next() else { return };
                let admitted = self.admit(&mut state, source);
                (waiting, admitted)
            };
            // If the client is gone, the next one gets the place.
            if let Err(mut admitted) = waiting.place.send(admitted) {
                admitted.is_refused = true;
            }
        }
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
        let is_awaited = state.waiting_count > 0 && !self.is_refused;
        drop(state);
        if is_awaited {
            self.admission.hand_on();
        }
    }
}

impl State {
    /// Whether there is a place for another request from this address.
    fn has_place(&self, source: Option<IpAddr>) -> bool {
        let own = self.by_source.get(&source).copied().unwrap_or(0);
        let sources = self.by_source.len() + usize::from(own == 0);
        let share = (self.places / sources).max(1);
        let has_less = own < share;
        let places = match has_less && sources > 1 {
            true => self.places + (self.places / RESERVE).max(1),
            false => self.places,
        };
        let is_greedy = !has_less && sources > 1 && self.taken >= self.places / 2;
        self.taken < places && !is_greedy
    }

    /// A request from this address waits. Returns its number, and where its place arrives.
    fn wait(&mut self, source: Option<IpAddr>) -> (u64, oneshot::Receiver<Admitted>) {
        let number = self.next_waiting;
        self.next_waiting += 1;
        self.waiting_count += 1;
        let (place, arrives) = oneshot::channel();
        let waiting = Waiting { since_ns: self.now_ns, place };
        self.waiting.entry(source).or_default().insert(number, waiting);
        (number, arrives)
    }

    /// A request no longer waits, if it did.
    fn forget(&mut self, source: Option<IpAddr>, number: u64) -> Option<Waiting> {
        let queue = self.waiting.get_mut(&source)?;
        let waiting = queue.remove(&number)?;
        if queue.is_empty() {
            self.waiting.remove(&source);
        }
        self.waiting_count -= 1;
        Some(waiting)
    }

    /// The request that is to have the place that is free, if one is free: one from the address
    /// that has the fewest.
    fn next(&mut self) -> Option<(Option<IpAddr>, Waiting)> {
        let own = |source: &Option<IpAddr>| self.by_source.get(source).copied().unwrap_or(0);
        let source = *self.waiting.keys().min_by_key(|source| own(source))?;
        if !self.has_place(source) {
            return None;
        }
        let queue = self.waiting.get(&source)?;
        let (oldest, waiting) = queue.first_key_value()?;
        let waited = Duration::from_nanos(self.now_ns.saturating_sub(waiting.since_ns));
        let number = match waited > PATIENCE {
            true => *queue.last_key_value()?.0,
            false => *oldest,
        };
        self.forget(source, number).map(|waiting| (source, waiting))
    }

    /// A request took this long.
    fn note(&mut self, time: Duration, now_ns: u64, max: usize) {
        self.now_ns = self.now_ns.max(now_ns);
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

    /// A place at once, or none.
    fn enter(admission: &Arc<Admission>, source: Option<IpAddr>, now_ns: u64) -> Option<Admitted> {
        match admission.ask(source, now_ns) {
            Asked::Admitted(admitted) => Some(admitted),
            Asked::Waits(number, _) => {
                admission.state().forget(source, number);
                None
            }
            Asked::Refused => None,
        }
    }

    fn wait(admission: &Arc<Admission>, source: Option<IpAddr>, now_ns: u64) -> Receiver {
        match admission.ask(source, now_ns) {
            Asked::Waits(_, place) => place,
            other => panic!("does not wait: {other:?}"),
        }
    }

    type Receiver = oneshot::Receiver<Admitted>;

    /// Works for a while with all places taken, each request for this time.
    fn work(admission: &Arc<Admission>, now_ns: &mut u64, time_ms: u64, rounds: usize) {
        for _ in 0..rounds {
            let mut all = Vec::new();
            while let Some(admitted) = enter(admission, None, *now_ns) {
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
            let admitted = enter(&admission, None, now_ns).unwrap();
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
        let mut all: Vec<_> = std::iter::from_fn(|| enter(&admission, greedy, 0)).collect();
        assert_eq!(all.len(), 64, "alone, it has everything");
        let mut few: Vec<_> = (0..16).map_while(|_| enter(&admission, modest, 0)).collect();
        assert_eq!(few.len(), 16, "another finds places nevertheless");
        // For each place that it gives up, the greedy client gets none until it has its share.
        for _ in 0..32 {
            all.pop();
            assert!(enter(&admission, greedy, 0).is_none());
        }
        few.extend((0..16).map_while(|_| enter(&admission, modest, 0)));
        assert_eq!((all.len(), few.len()), (32, 32));
        assert!(enter(&admission, greedy, 0).is_none() && enter(&admission, modest, 0).is_none());
        drop((all, few));
        assert_eq!(admission.places(), (64, 0));
        assert!(admission.state().by_source.is_empty());
    }

    #[test]
    fn who_waits_is_served_in_order_until_it_takes_too_long_and_then_the_newest_first() {
        let admission = Admission::new(1);
        let first = enter(&admission, None, 0).unwrap();
        let mut waiting: Vec<Receiver> = (0..4).map(|_| wait(&admission, None, 0)).collect();
        first.leave(MS);
        let second = waiting[0].try_recv().expect("the oldest comes first");
        second.leave(100 * MS);
        let third = waiting[3].try_recv().expect("after a long wait the newest comes first");
        assert!(waiting[1].try_recv().is_err() && waiting[2].try_recv().is_err());
        // A client that is gone keeps no place.
        drop(waiting);
        third.leave(101 * MS);
        assert_eq!(admission.places(), (1, 0));
    }

    #[test]
    fn a_place_goes_to_the_address_that_has_the_fewest() {
        let admission = Admission::new(2);
        let (greedy, modest) =
            (Some(IpAddr::from([10, 0, 0, 1])), Some(IpAddr::from([10, 0, 0, 2])));
        let held = [enter(&admission, greedy, 0).unwrap(), enter(&admission, greedy, 0).unwrap()];
        let mut own = wait(&admission, greedy, 0);
        let other = enter(&admission, modest, 0).expect("the reserve");
        let mut next = wait(&admission, modest, 0);
        let [one, two] = held;
        one.leave(MS);
        assert!(own.try_recv().is_err(), "it has its share");
        two.leave(MS);
        let admitted = [next.try_recv(), own.try_recv()];
        assert_eq!(admitted.iter().filter(|place| place.is_ok()).count(), 1);
        drop((admitted, other, own, next));
        assert_eq!(admission.places(), (2, 0));
    }

    #[test]
    fn only_so_many_wait() {
        let admission = Admission::new(1);
        let _held = enter(&admission, None, 0).unwrap();
        let waiting: Vec<Receiver> = (0..WAITING_MAX).map(|_| wait(&admission, None, 0)).collect();
        assert!(matches!(admission.ask(None, 0), Asked::Refused));
        drop(waiting);
    }
}
