//! Dials a peer by its address: looks up its name, then connects.
//!
//! The look-up and the connection have separate timeouts, because they fail for different reasons.
//! A name may have several addresses, some of them dead. They are tried one after another,
//! beginning with the one that worked last. The next attempt does not wait until the previous one
//! has timed out. The address that worked last is tried during the look-up, so a slow resolver
//! delays only the first connection.
//!
//! That an address accepts a connection does not mean that the peer is there: another process may
//! have the address by now. So an address counts as good only once the peer has accepted a stream
//! there ([`Trial::accept`]). If a connection ends before that, its address is suspect: it is tried
//! only after the look-up, and after the other addresses. An address that refuses connections is
//! not suspect, because the same dial goes on to the addresses of the look-up.
//!
//! The system's resolver blocks a thread and cannot be cancelled. So at most one look-up of a name
//! is in flight, however often the peer is dialled in the meantime.

use crate::net::{Deadline, Net, Running as _, timeout};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// How long the look-up of a name may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long connecting to one address may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The next address is tried when the one before has not answered for this long.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(100);
/// The most addresses from one look-up that are tried.
const ADDRESSES_MAX: usize = 16;
/// The most names that are remembered: more than a cluster has members.
const NAMES_MAX: usize = 256;

/// Why a peer could not be dialled.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The resolver failed or returned no address, or too many names are remembered.
    #[error("name look-up failed: {0}")]
    Lookup(String),
    /// The resolver did not answer within [`LOOKUP_TIMEOUT`].
    #[error("name look-up failed: no answer within {LOOKUP_TIMEOUT:?}")]
    LookupSlow,
    /// No address accepted the connection. The fields describe the last failed attempt.
    #[error("cannot connect to {address}: {why}")]
    Connect {
        /// The address of the attempt.
        address: SocketAddr,
        /// The error, as text.
        why: String,
        /// The kind of the error, for [`DialError::kind`].
        kind: io::ErrorKind,
    },
}

impl DialError {
    /// Whether nothing listens at the address, so that the process which did has ended.
    pub fn is_refused(&self) -> bool {
        matches!(self, DialError::Connect { kind: io::ErrorKind::ConnectionRefused, .. })
    }

    /// A key that is equal for errors of the same kind, so that each kind is reported once.
    pub fn kind(&self) -> String {
        match self {
            DialError::Lookup(_) | DialError::LookupSlow => "look-up".to_owned(),
            DialError::Connect { kind, .. } => format!("connect: {kind}"),
        }
    }
}

type Addresses = Result<Vec<SocketAddr>, String>;

type Known = Arc<Mutex<BTreeMap<String, Name>>>;

/// The look-ups in flight, and what is known of the addresses of each name. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Names<N> {
    net: N,
    known: Known,
}

/// A connection on which the peer has not accepted anything yet. Dropping it makes the address
/// suspect, unless [`Trial::accept`] was called.
#[derive(Debug)]
pub(crate) struct Trial {
    known: Known,
    name: String,
    at: SocketAddr,
    accepted: bool,
}

impl Trial {
    /// The address that is connected.
    pub fn at(&self) -> SocketAddr {
        self.at
    }

    /// The peer has accepted the stream or the request: its address is good.
    pub fn accept(&mut self) {
        if !self.accepted {
            self.accepted = true;
            self.with(Name::is_good);
        }
    }

    /// The peer has become silent: its name may resolve to another address by now.
    pub fn distrust(&mut self) {
        self.accepted = false;
    }

    fn with(&self, work: impl FnOnce(&mut Name, SocketAddr)) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // A name that was forgotten in the meantime, or is an address, has no entry.
        if let Some(name) = known.get_mut(&self.name) {
            work(name, self.at);
        }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if !self.accepted {
            self.with(Name::is_suspect);
        }
    }
}

#[derive(Debug, Default)]
struct Name {
    under_way: Option<Arc<LookUp>>,
    last_good: Option<SocketAddr>,
    /// The suspect addresses, at most [`ADDRESSES_MAX`]. The one that failed last is the last.
    suspects: Vec<SocketAddr>,
}

impl Name {
    fn is_good(&mut self, at: SocketAddr) {
        self.last_good = Some(at);
        self.suspects.retain(|suspect| *suspect != at);
    }

    fn is_suspect(&mut self, at: SocketAddr) {
        self.last_good = self.last_good.filter(|good| *good != at);
        self.suspects.retain(|suspect| *suspect != at);
        self.suspects.push(at);
        if self.suspects.len() > ADDRESSES_MAX {
            self.suspects.remove(0);
        }
    }
}

/// A look-up, in flight or done.
#[derive(Debug, Default)]
struct LookUp {
    found: Mutex<Option<Addresses>>,
    /// Notified when it is done.
    done: Notify,
}

impl LookUp {
    fn found(&self) -> MutexGuard<'_, Option<Addresses>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_done(&self) -> bool {
        self.found().is_some()
    }

    async fn answer(&self) -> Addresses {
        loop {
            let done = self.done.notified();
            if let Some(found) = &*self.found() {
                return found.clone();
            }
            done.await;
        }
    }
}

impl<N: Net> Names<N> {
    pub fn new(net: N) -> Self {
        Names { net, known: Arc::default() }
    }

    /// The [`Net`] that it dials on.
    pub fn net(&self) -> &N {
        &self.net
    }

    /// Connects to `address`, which is `host:port`.
    pub async fn dial(&self, address: &str) -> Result<(N::Stream, Trial), DialError> {
        let (stream, at) = match address.parse() {
            Ok(numeric) => connect(&self.net, numeric).await?,
            Err(_) => self.dial_name(address).await?,
        };
        let (known, name) = (self.known.clone(), address.to_owned());
        Ok((stream, Trial { known, name, at, accepted: false }))
    }

    async fn dial_name(&self, address: &str) -> Result<(N::Stream, SocketAddr), DialError> {
        let known = self.with(address, |name| (name.last_good, name.suspects.clone()));
        let (last_good, suspects) = known.unwrap_or_default();
        let mut waiting: VecDeque<SocketAddr> = last_good.into_iter().collect();
        // They are tried when nothing else is left. A suspect address may accept a connection
        // sooner than the peer does at its new address.
        let mut last_resort: VecDeque<SocketAddr> = suspects.iter().copied().collect();
        let (mut tried, mut error) = (Vec::new(), None);
        let mut attempts = FuturesUnordered::new();
        let lookup = self.look_up(address);
        tokio::pin!(lookup);
        let mut is_looking_up = true;
        let mut next_at = self.net.now();
        let mut next_address = Deadline::new(self.net.clone());
        loop {
            if attempts.is_empty() && waiting.is_empty() && !is_looking_up {
                waiting.extend(last_resort.pop_front());
            }
            if let Some(next) = waiting.front().copied()
                && (attempts.is_empty() || next_at <= self.net.now())
            {
                waiting.pop_front();
                tried.push(next);
                attempts.push(connect(&self.net, next));
                next_at = self.net.now() + NEXT_ADDRESS_AFTER;
            }
            if attempts.is_empty() && !is_looking_up {
                return Err(error.unwrap_or(DialError::Lookup("it has no address".to_owned())));
            }
            tokio::select! {
                biased;
                Some(done) = attempts.next(), if !attempts.is_empty() => match done {
                    Ok(connected) => return Ok(connected),
                    Err(failed) => error = Some(failed),
                },
                found = &mut lookup, if is_looking_up => {
                    is_looking_up = false;
                    match found {
                        Ok(found) => {
                            last_resort.retain(|at| found.contains(at));
                            let is_new =
                                |at: &SocketAddr| !tried.contains(at) && !suspects.contains(at);
                            waiting.extend(found.into_iter().filter(is_new).take(ADDRESSES_MAX));
                        }
                        Err(failed) => error = Some(failed),
                    }
                },
                () = next_address.wait_until(next_at), if !waiting.is_empty() => {}
            }
        }
    }

    /// Waits for the look-up in flight, or starts one.
    async fn look_up(&self, address: &str) -> Result<Vec<SocketAddr>, DialError> {
        let Some(under_way) = self.begin(address) else {
            return Err(DialError::Lookup("too many names".to_owned()));
        };
        match timeout(&self.net, LOOKUP_TIMEOUT, under_way.answer()).await {
            Err(_) => Err(DialError::LookupSlow),
            Ok(found) => found.map_err(DialError::Lookup),
        }
    }

    fn begin(&self, address: &str) -> Option<Arc<LookUp>> {
        self.with(address, |name| {
            if let Some(under_way) = name.under_way.as_ref().filter(|look_up| !look_up.is_done()) {
                return under_way.clone();
            }
            let look_up = Arc::<LookUp>::default();
            let (net, address, asked) = (self.net.clone(), address.to_owned(), look_up.clone());
            // A separate task: the look-up continues when the callers that wait for it time out.
            let task = self.net.spawn(async move {
                let found = net.look_up(&address).await.map_err(|error| error.to_string());
                *asked.found() = Some(found);
                asked.done.notify_waiters();
            });
            task.detach();
            name.under_way = Some(look_up.clone());
            look_up
        })
    }

    /// Runs `work` on the entry of a name, which it adds if needed. `None` if there are too many
    /// names.
    fn with<T>(&self, address: &str, work: impl FnOnce(&mut Name) -> T) -> Option<T> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= NAMES_MAX && !known.contains_key(address) {
            return None;
        }
        Some(work(known.entry(address.to_owned()).or_default()))
    }

    /// Forgets the names for which `keep` does not hold.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|name, _| keep(name));
    }
}

async fn connect<N: Net>(
    net: &N,
    address: SocketAddr,
) -> Result<(N::Stream, SocketAddr), DialError> {
    let failed = |why: String, kind| DialError::Connect { address, why, kind };
    match timeout(net, CONNECT_TIMEOUT, net.connect(address)).await {
        Ok(Ok(stream)) => Ok((stream, address)),
        Ok(Err(error)) => Err(match error.kind() {
            io::ErrorKind::ConnectionRefused => failed("connection refused".into(), error.kind()),
            kind => failed(error.to_string(), kind),
        }),
        Err(_) => {
            Err(failed(format!("no answer within {CONNECT_TIMEOUT:?}"), io::ErrorKind::TimedOut))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::TokioTask;
    use crate::transfer::Offload;
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;
    use tokio::io::DuplexStream;

    /// How long a look-up of a name that begins with "slow" takes.
    const SLOW: Duration = Duration::from_millis(700);

    /// A network on tokio's clock, which the tests pause: it advances when all tasks wait, to the
    /// next timer. So the tests state how long a dial takes, whatever the machine does meanwhile.
    #[derive(Clone, Debug, Default)]
    struct PausedNet(Arc<Scene>);

    #[derive(Debug, Default)]
    struct Scene {
        /// They accept connections.
        live: Mutex<BTreeSet<SocketAddr>>,
        /// They do not answer. All others refuse connections.
        silent: Mutex<BTreeSet<SocketAddr>>,
        lookups: AtomicUsize,
    }

    /// The addresses that the names of the tests resolve to.
    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 9080))
    }

    impl PausedNet {
        fn with(live: &[u8], silent: &[u8]) -> Self {
            let net = PausedNet::default();
            net.0.live.lock().unwrap().extend(live.iter().copied().map(address));
            net.0.silent.lock().unwrap().extend(silent.iter().copied().map(address));
            net
        }

        /// How long dialling `name` takes, and what comes of it.
        async fn dial(&self, names: &Names<Self>, name: &str) -> (Duration, DialResult) {
            let begin = self.now();
            let dialled = names.dial(name).await;
            (self.now() - begin, dialled)
        }
    }

    type DialResult = Result<(DuplexStream, Trial), DialError>;

    impl Offload for PausedNet {
        async fn run<T: Send + 'static>(
            &self,
            work: impl FnOnce() -> T + Send + 'static,
        ) -> Option<T> {
            Some(work())
        }
    }

    impl Net for PausedNet {
        type Stream = DuplexStream;
        type Listener = ();
        type Sleep = tokio::time::Sleep;
        type Task = TokioTask;

        async fn look_up(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
            self.0.lookups.fetch_add(1, Ordering::SeqCst);
            match name {
                "slow" => tokio::time::sleep(SLOW).await,
                "hung" => std::future::pending().await,
                _ => {}
            }
            match name {
                "slow" | "moved" => Ok(vec![address(1)]),
                "several" => Ok(vec![address(2), address(1)]),
                "empty" => Ok(Vec::new()),
                _ => Err(io::Error::other("no such host is known")),
            }
        }

        async fn connect(&self, to: SocketAddr) -> io::Result<DuplexStream> {
            if self.0.silent.lock().unwrap().contains(&to) {
                std::future::pending::<()>().await;
            }
            match self.0.live.lock().unwrap().contains(&to) {
                true => Ok(tokio::io::duplex(1).0),
                false => Err(io::ErrorKind::ConnectionRefused.into()),
            }
        }

        async fn bind(&self, _: SocketAddr) -> io::Result<()> {
            unreachable!("these tests only dial")
        }

        fn local_addr(&self, (): &()) -> io::Result<SocketAddr> {
            unreachable!("these tests only dial")
        }

        async fn accept(&self, (): &()) -> io::Result<(DuplexStream, SocketAddr)> {
            unreachable!("these tests only dial")
        }

        fn now(&self) -> Instant {
            tokio::time::Instant::now().into_std()
        }

        fn sleep(&self, duration: Duration) -> Self::Sleep {
            tokio::time::sleep(duration)
        }

        fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> TokioTask {
            TokioTask::new(tokio::spawn(task))
        }

        fn draw(&self) -> u64 {
            unreachable!("dialling draws nothing")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_look_up_only_delays_and_is_made_once_for_all_who_wait() {
        let net = PausedNet::with(&[1], &[]);
        let names = Names::new(net.clone());
        let ((took, one), (_, other)) =
            tokio::join!(net.dial(&names, "slow"), net.dial(&names, "slow"));
        assert_eq!(took, SLOW);
        assert!(other.is_ok());
        drop(other);
        one.unwrap().1.accept();
        assert_eq!(net.0.lookups.load(Ordering::SeqCst), 1);
        let (took, again) = net.dial(&names, "slow").await;
        assert!(again.is_ok());
        assert_eq!(took, Duration::ZERO, "the last good address is tried first");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_address_of_several_is_passed_over() {
        let net = PausedNet::with(&[1], &[]);
        let (took, dialled) = net.dial(&Names::new(net.clone()), "several").await;
        assert_eq!(dialled.unwrap().1.at(), address(1));
        assert_eq!(took, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_hangs_does_not_hold_up_the_next() {
        let net = PausedNet::with(&[1], &[2]);
        let (took, dialled) = net.dial(&Names::new(net.clone()), "several").await;
        assert_eq!(dialled.unwrap().1.at(), address(1));
        assert_eq!(took, NEXT_ADDRESS_AFTER);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_worked_once_does_not_hide_the_present_one() {
        for former_is_silent in [false, true] {
            let net = PausedNet::with(&[1], if former_is_silent { &[3] } else { &[] });
            let names = Names::new(net.clone());
            names.with("moved", |name| name.last_good = Some(address(3)));
            let (took, dialled) = net.dial(&names, "moved").await;
            assert_eq!(dialled.unwrap().1.at(), address(1));
            assert!(took <= NEXT_ADDRESS_AFTER);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_failure_says_what_it_is_and_takes_no_longer_than_its_limit() {
        let net = PausedNet::with(&[], &[4]);
        let names = Names::new(net.clone());
        for (name, limit, said) in [
            ("unknown", Duration::ZERO, "name look-up failed: no such host is known"),
            ("empty", Duration::ZERO, "name look-up failed: it has no address"),
            ("hung", LOOKUP_TIMEOUT, "name look-up failed: no answer within 5s"),
            (
                "10.0.0.4:9080",
                CONNECT_TIMEOUT,
                "cannot connect to 10.0.0.4:9080: no answer within 1s",
            ),
            (
                "10.0.0.5:9080",
                Duration::ZERO,
                "cannot connect to 10.0.0.5:9080: connection refused",
            ),
        ] {
            let (took, dialled) = net.dial(&names, name).await;
            assert_eq!(dialled.unwrap_err().to_string(), said);
            assert_eq!(took, limit, "{name}");
        }
    }
}
