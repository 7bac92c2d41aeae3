//! Admission control: how many requests are in progress at once, and from which clients.
//!
//! Each request in progress takes a place. Once the disk and the processors are busy, more places
//! only make each request slower. The useful number depends on the machine, so it is adjusted at
//! run time. While requests take several times as long as on a lightly loaded node, the number of
//! places decreases. While they do not, and all places are taken, it increases.
//!
//! A request that finds no place waits for a short time, and is then refused. The wait limits how
//! often clients can retry, so that refusing them does not overload the node. The first requests of
//! an address that wait stand in line, as many as its share of the places. So that wait takes
//! about as long as a request. The others wait aside: they get a place only when the line of their
//! address is empty, the newest first. So a burst is served to its end. In a lasting overload, some
//! have to be refused: then those that have waited aside for long get no place any more, so that
//! what is admitted is answered soon.
//!
//! The share of a client address is the number of places divided by the number of addresses. Once
//! half of the places are taken, an address gets no place beyond its share. An address below its
//! share may also use a reserve, if all places are taken. An address that is alone may take all
//! places. All clients on this machine count as one address.

use driver::Clock;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// The least number of places, unless the configured maximum is lower. Enough for writes to share
/// disk syncs.
const PLACES_MIN: usize = 32;
/// The first estimate of the time that a request takes on a lightly loaded node.
const EASY_FIRST: Duration = Duration::from_millis(2);
/// Requests are too slow if they take more than this many times the time on a lightly loaded node.
const SLOWDOWN_MAX: u32 = 3;
/// Requests that take less than this are never too slow.
const TIME_MIN: Duration = Duration::from_millis(25);
/// The number of places is adjusted after this time, and after at least [`WINDOW_REQUESTS`]
/// requests.
const WINDOW: Duration = Duration::from_millis(50);
const WINDOW_REQUESTS: u64 = 16;
/// Each adjustment adds or removes one place in this many.
const STEP: usize = 8;
/// The reserve for addresses below their share has one place for each of this many.
const RESERVE: usize = 4;
/// The longest time that a request waits for a place.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// In a lasting overload, a request that has waited aside for this long gets no place.
const PATIENCE: Duration = Duration::from_millis(25);
/// An overload lasts for this long after a request was refused.
const OVERLOAD: Duration = Duration::from_secs(1);
/// The most requests that wait at once. Others are refused at once.
const WAITING_MAX: usize = 4096;

/// The places for requests in progress.
#[derive(Debug)]
pub(crate) struct Admission {
    max: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The current number of places. At most the maximum, and adjusted at run time.
    places: usize,
    taken: usize,
    /// Taken places of each client address. Addresses without a taken place have no entry.
    by_source: BTreeMap<Option<IpAddr>, usize>,
    /// Requests that wait for a place, for each address. An address without any has no entry.
    waiting: BTreeMap<Option<IpAddr>, Queue>,
    waiting_count: usize,
    /// The number of the next request that waits.
    next_waiting: u64,
    /// The latest time that any caller passed in.
    now_ns: u64,
    /// When a request was refused last.
    refused_ns: Option<u64>,
    /// The estimated time that a request takes on a lightly loaded node. A moving average.
    easy: Duration,
    window: Window,
}

/// The requests of one address that wait for a place, by number, which is the order of arrival.
#[derive(Debug, Default)]
struct Queue {
    in_line: BTreeMap<u64, Waiting>,
    aside: BTreeMap<u64, Waiting>,
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
    /// The number of the request in the queue, and the channel on which its place arrives.
    Waits(u64, oneshot::Receiver<Admitted>),
    Refused,
}

/// A waiting request. Dropping this removes the request from the queue.
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

/// Measurements since the number of places was last adjusted.
#[derive(Debug, Default)]
struct Window {
    began_ns: u64,
    requests: u64,
    time: Duration,
    taken_most: usize,
}

/// A taken place. It becomes free when this is dropped. Call [`Admitted::leave`] for a request that
/// has ended, so that its time is measured.
#[derive(Debug)]
pub(crate) struct Admitted {
    admission: Arc<Admission>,
    source: Option<IpAddr>,
    began_ns: u64,
    /// Set when the request has ended. `None` if it was cancelled.
    ended_ns: Option<u64>,
    /// The place was offered to a request that had been cancelled.
    is_refused: bool,
}

impl Admission {
    /// Starts with `places_max` places, and never has more.
    pub fn new(places_max: usize) -> Arc<Self> {
        let state = State {
            places: places_max,
            taken: 0,
            by_source: BTreeMap::new(),
            waiting: BTreeMap::new(),
            waiting_count: 0,
            next_waiting: 0,
            now_ns: 0,
            refused_ns: None,
            easy: EASY_FIRST,
            window: Window::default(),
        };
        Arc::new(Admission { max: places_max, state: Mutex::new(state) })
    }

    /// Waits for a place for a request from this address. `None` if there is none within
    /// [`WAIT_MAX`], or if too many requests wait already.
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
        // The place may have arrived after the timeout and before the request left the queue.
        let admitted = admitted.or_else(|| place.try_recv().ok());
        if admitted.is_none() {
            self.state().refuse(clock.now().monotonic_ns);
        }
        admitted
    }

    /// Takes a place if one is free. Otherwise adds the request to the queue, or refuses it.
    fn ask(self: &Arc<Self>, source: Option<IpAddr>, now_ns: u64) -> Asked {
        let mut state = self.state();
        state.now_ns = state.now_ns.max(now_ns);
        if state.has_place(source) {
            return Asked::Admitted(self.admit(&mut state, source));
        }
        state.window.taken_most = state.places;
        if state.waiting_count >= WAITING_MAX {
            state.refuse(now_ns);
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

    /// Gives free places to waiting requests.
    fn hand_on(self: &Arc<Self>) {
        loop {
            let (waiting, admitted) = {
                let mut state = self.state();
                let Some((source, waiting)) = state.next() else { return };
                let admitted = self.admit(&mut state, source);
                (waiting, admitted)
            };
            // If the request was cancelled, the loop gives the place to the next one.
            if let Err(mut admitted) = waiting.place.send(admitted) {
                admitted.is_refused = true;
            }
        }
    }

    /// The current number of places, and how many of them are taken.
    pub fn places(&self) -> (usize, usize) {
        let state = self.state();
        (state.places, state.taken)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admitted {
    /// The request has ended. Its duration is measured.
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
    /// The number of places divided by the number of addresses, this one included.
    fn share(&self, source: Option<IpAddr>) -> usize {
        let is_new = !self.by_source.contains_key(&source);
        (self.places / (self.by_source.len() + usize::from(is_new))).max(1)
    }

    /// Whether a further request from this address may have a place.
    fn has_place(&self, source: Option<IpAddr>) -> bool {
        let own = self.by_source.get(&source).copied().unwrap_or(0);
        let sources = self.by_source.len() + usize::from(own == 0);
        let has_less = own < self.share(source);
        let places = match has_less && sources > 1 {
            true => self.places + (self.places / RESERVE).max(1),
            false => self.places,
        };
        let is_greedy = !has_less && sources > 1 && self.taken >= self.places / 2;
        self.taken < places && !is_greedy
    }

    /// Adds a request to the queue. Returns its number, and the channel on which its place arrives.
    fn wait(&mut self, source: Option<IpAddr>) -> (u64, oneshot::Receiver<Admitted>) {
        let number = self.next_waiting;
        self.next_waiting += 1;
        self.waiting_count += 1;
        let (place, arrives) = oneshot::channel();
        let waiting = Waiting { since_ns: self.now_ns, place };
        let share = self.share(source);
        let queue = self.waiting.entry(source).or_default();
        match queue.in_line.len() < share {
            true => queue.in_line.insert(number, waiting),
            false => queue.aside.insert(number, waiting),
        };
        (number, arrives)
    }

    /// Removes a request from the queue, if it is still in it.
    fn forget(&mut self, source: Option<IpAddr>, number: u64) -> Option<Waiting> {
        let queue = self.waiting.get_mut(&source)?;
        let waiting = queue.in_line.remove(&number).or_else(|| queue.aside.remove(&number))?;
        if queue.in_line.is_empty() && queue.aside.is_empty() {
            self.waiting.remove(&source);
        }
        self.waiting_count -= 1;
        Some(waiting)
    }

    /// Chooses the waiting request that gets a free place, if there is one. The address with the
    /// fewest taken places comes first.
    fn next(&mut self) -> Option<(Option<IpAddr>, Waiting)> {
        let own = |source: &Option<IpAddr>| self.by_source.get(source).copied().unwrap_or(0);
        let first = |queue: &Queue| self.first(queue);
        let queues = self.waiting.iter();
        let may_come = queues.filter_map(|(source, queue)| Some((*source, first(queue)?)));
        let (source, number) = may_come.min_by_key(|(source, _)| own(source))?;
        if !self.has_place(source) {
            return None;
        }
        self.forget(source, number).map(|waiting| (source, waiting))
    }

    /// The request of an address that comes next, if one may come.
    fn first(&self, queue: &Queue) -> Option<u64> {
        if let Some((oldest, _)) = queue.in_line.first_key_value() {
            return Some(*oldest);
        }
        let (newest, waiting) = queue.aside.last_key_value()?;
        let is_late = self.is_overloaded() && self.since(waiting.since_ns) > PATIENCE;
        (!is_late).then_some(*newest)
    }

    fn refuse(&mut self, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
        self.refused_ns = Some(self.now_ns);
    }

    /// Whether requests have had to be refused of late.
    fn is_overloaded(&self) -> bool {
        self.refused_ns.is_some_and(|refused_ns| self.since(refused_ns) < OVERLOAD)
    }

    fn since(&self, then_ns: u64) -> Duration {
        Duration::from_nanos(self.now_ns.saturating_sub(then_ns))
    }

    /// Records the duration of a request, and adjusts the number of places at the end of a window.
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

    /// Takes a place without waiting.
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

    /// Runs `rounds` rounds with all places taken. Each request takes `time_ms`.
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
        // A maximum below `PLACES_MIN` is not raised to it.
        let admission = Admission::new(3);
        work(&admission, &mut now_ns, 40, 100);
        assert_eq!(admission.places(), (3, 0));
    }

    #[test]
    fn where_requests_take_long_in_any_case_there_are_many_places() {
        let admission = Admission::new(256);
        let mut now_ns = 0;
        // A slow disk on a lightly loaded node.
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
        // The greedy client gets no further place until it is below its share.
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
    fn as_many_as_there_are_places_wait_in_order_and_the_newest_of_the_others_comes_next() {
        let admission = Admission::new(2);
        let held = [enter(&admission, None, 0).unwrap(), enter(&admission, None, 0).unwrap()];
        let mut waiting: Vec<Receiver> = (0..5).map(|_| wait(&admission, None, 0)).collect();
        let mut order = Vec::new();
        let mut places: Vec<Admitted> = held.into();
        while let Some(place) = places.pop() {
            place.leave(MS);
            for (number, arrives) in waiting.iter_mut().enumerate() {
                if let Ok(admitted) = arrives.try_recv() {
                    order.push(number);
                    places.push(admitted);
                }
            }
        }
        assert_eq!(order, [0, 1, 4, 3, 2]);
        assert_eq!(admission.places(), (2, 0));
        assert!(admission.state().waiting.is_empty());
    }

    #[test]
    fn in_a_lasting_overload_a_long_wait_aside_ends_with_a_refusal() {
        for (is_refused, expected) in [(false, true), (true, false)] {
            let admission = Admission::new(1);
            let first = enter(&admission, None, 0).unwrap();
            let (mut in_line, mut aside) = (wait(&admission, None, 0), wait(&admission, None, 0));
            if is_refused {
                admission.state().refuse(0);
            }
            first.leave(30 * MS);
            in_line.try_recv().expect("it stands in line").leave(31 * MS);
            assert_eq!(aside.try_recv().is_ok(), expected, "refused before: {is_refused}");
            drop(aside);
        }
    }

    #[test]
    fn a_newcomer_gets_into_line_before_those_that_wait_aside() {
        let admission = Admission::new(1);
        let first = enter(&admission, None, 0).unwrap();
        let mut in_line = wait(&admission, None, 0);
        let mut aside = wait(&admission, None, 0);
        first.leave(MS);
        let second = in_line.try_recv().expect("it stands in line");
        let mut newcomer = wait(&admission, None, MS);
        second.leave(2 * MS);
        let third = newcomer.try_recv().expect("it found room in the line");
        assert!(aside.try_recv().is_err());
        // A cancelled request does not keep a place.
        drop(aside);
        third.leave(3 * MS);
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
