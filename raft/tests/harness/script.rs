//! The commands of the scripts. Nodes are numbered from 1. After each command the affected nodes
//! are polled until they return no more actions, and those actions are the output.
//!
//! ```text
//! cluster nodes=3 [leader=1] [show=terms,rounds] [hold_machines] [compares]
//!                           [SETTING=N ..]   compares: nodes report hashes of what they apply
//! propose N COMMAND ..      several at once are several proposals under one poll
//! system N COMMAND
//! forward N COMMAND [session]  N forwards it to its leader; each command takes the next number
//! read N [lease]
//! tick [N] [times=K]        without N: every node once, in order
//! lead N [V ..] [times=K]   K times: N ticks, and then everything among N and the V (or all) is
//!                           carried out
//! run [V ..] times=K        K times: one tick of each of the V (or all), and then everything among
//!                           them is carried out
//! campaign N
//! transfer N [to=M]         N hands leadership over
//! ask N                     N sends a heartbeat to all, and names its round
//! members N V .. [learners=L,..] [version=I] [force] [since=ROUND] [catch_up_ms=T]
//!                           N changes the membership to the voters V and the learners L
//! add N                     a new node, which knows no membership
//! elect N [V ..]            N campaigns; its writes and messages are carried out among N
//!                           and the V (or all) until N leads; its later messages stay in flight
//! clock N MS [passed=MS]    sets the node's wall clock; advances its monotonic clock
//! pass MS [N ..]            advances the monotonic clocks of all nodes, or of these;
//!                           `pass back=MS`: sets them back
//! set SETTING=N             from the next start of each node on
//! deliver [TO] [SELECTION] [keep] [reverse]   keep: a copy arrives, the message stays in flight
//! drop [TO] [SELECTION]     SELECTION: from=N type=Append at=K (the K-th of those, from 1)
//! inflight                  lists the messages in flight
//! inject TO from=N BODY [term=T] [incarnation=I] [FIELD=VALUE ..]
//! cut N [M]                 all links of N, or those between N and M; `cut N to=M`: one way
//! heal                      all links work again
//! unreachable N PEER        N's transport reports a loss
//! gone N PEER               N's transport reports that the process of PEER has ended
//! sync N [hold]             the write is on disk; hold: its receipt is held
//! receipt N                 passes a held receipt to the node
//! crash [N] [keep]          the pending write is lost; keep: it was just synced
//! restart [N]               without N: every node that is down
//! wipe N [join]             a new disk under the id; join: one that knows no membership
//! lose N INDEX [silent] [promise]  damages the disk of a node that is down, from INDEX on;
//!                           silent: recovery does not notice; promise: the hard state that had
//!                           the length of a promise is lost too
//! flip N                    N's state machine applies something other than the next batch
//! machine N                 the state machine's order is done (with hold_machines)
//! snapshot N [failed]       the ordered snapshot is durable, or has failed
//! offer N                   the offer reaches N, and the bytes too if N accepts it
//! install N                 the received snapshot is durable
//! sent N PEER ok|failed     N's transport has finished a snapshot transfer
//! stabilize [N ..]          syncs, deliveries and snapshots, until nothing is pending
//! status [N], log N, disk N, counters N
//! ```

use super::cluster::Cluster;
use super::print;
use bytes::Bytes;
use goldenscript::{Argument, Command, Context};
use raft::{
    Change, Incarnation, Index, LogId, Membership, Message, NodeId, ReadProof, Round, Snapshot,
    SnapshotStatus,
};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;

pub(super) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// One run of one script.
#[derive(Default)]
pub struct Script {
    pub(super) cluster: Cluster,
    /// The snapshots being sent: leader, peer, and last entry.
    sending: Vec<(u64, u64, LogId)>,
}

/// The arguments of a command, consumed one by one.
pub(super) struct Args {
    pub(super) words: Vec<String>,
    pub(super) keys: Vec<(String, String)>,
}

impl Args {
    pub(super) fn new(command: &Command) -> Self {
        let (mut words, mut keys) = (Vec::new(), Vec::new());
        for argument in &command.args {
            match argument {
                Argument::KeyValue(key, value) => keys.push((key.clone(), value.clone())),
                Argument::Positional(word) => words.push(word.clone()),
                _ => {}
            }
        }
        Args { words, keys }
    }

    pub(super) fn id(&mut self) -> Result<u64> {
        self.maybe_id().ok_or_else(|| "which node?".into())
    }

    pub(super) fn maybe_id(&mut self) -> Option<u64> {
        let id = self.words.first()?.parse().ok()?;
        self.words.remove(0);
        Some(id)
    }

    pub(super) fn flag(&mut self, name: &str) -> bool {
        let at = self.words.iter().position(|word| word == name);
        at.map(|at| self.words.remove(at)).is_some()
    }

    pub(super) fn key(&mut self, name: &str) -> Option<String> {
        let at = self.keys.iter().position(|(key, _)| key == name)?;
        Some(self.keys.remove(at).1)
    }

    pub(super) fn number(&mut self, name: &str) -> Result<Option<u64>> {
        self.key(name).map(|value| Ok(value.parse()?)).transpose()
    }

    pub(super) fn log_id(&mut self, name: &str) -> Result<LogId> {
        self.key(name).map_or(Ok(LogId::ZERO), |value| log_id(&value))
    }

    pub(super) fn done(&self) -> Result<()> {
        match self.words.is_empty() && self.keys.is_empty() {
            true => Ok(()),
            false => Err(format!("what is {:?} {:?}?", self.words, self.keys).into()),
        }
    }
}

pub(super) fn log_id(text: &str) -> Result<LogId> {
    let (index, term) = text.split_once('@').ok_or("a log id looks like 7@4")?;
    Ok(LogId::new(index.parse()?, term.parse()?))
}

impl goldenscript::Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String> {
        let mut args = Args::new(command);
        match command.name.as_str() {
            "cluster" => self.start(&mut args)?,
            "propose" => {
                // `x=1` is not a named argument here but a command.
                let mut texts = command.args.iter().skip(1).map(ToString::to_string);
                let id = args.id()?;
                self.propose(id, &mut texts)?;
                return Ok(std::mem::take(&mut self.cluster.output));
            }
            "deliver" => self.deliver(&mut args)?,
            "drop" => {
                for message in self.select(&mut args, false)? {
                    let line = print::message(&message, "↛", self.cluster.show);
                    self.cluster.say(line);
                }
            }
            "inject" => self.inject(&mut args)?,
            "inflight" => {
                for message in self.cluster.network.clone() {
                    let line = print::message(&message, "→", self.cluster.show);
                    self.cluster.say(line);
                }
            }
            "crash" | "restart" | "wipe" | "lose" => self.life(&command.name, &mut args)?,
            "snapshot" | "offer" | "install" | "sent" => self.snapshot(&command.name, &mut args)?,
            "status" | "log" | "disk" | "counters" => self.show(&command.name, &mut args)?,
            name => self.event(name, &mut args)?,
        }
        args.done()?;
        self.note_offers();
        Ok(std::mem::take(&mut self.cluster.output))
    }
}

impl Script {
    fn start(&mut self, args: &mut Args) -> Result<()> {
        let size = args.number("nodes")?.unwrap_or(3);
        let leader = args.number("leader")?;
        let hold = args.flag("hold_machines");
        self.cluster.compares = args.flag("compares");
        for what in args.key("show").unwrap_or_default().split(',') {
            self.cluster.show.terms |= what == "terms";
            self.cluster.show.rounds |= what == "rounds";
        }
        for (name, value) in std::mem::take(&mut args.keys) {
            self.cluster.settings.push((name, value.parse()?));
        }
        self.cluster.start(size);
        if let Some(leader) = leader {
            let all: Vec<u64> = (1..=size).collect();
            self.cluster.event(leader, |node, now| node.campaign(now));
            self.cluster.stabilize(&all);
            // All nodes learn the commit index, and a heartbeat interval begins.
            for _ in 0..2 {
                self.cluster.event(leader, |node, now| node.tick(now));
                self.cluster.stabilize(&all);
            }
            self.cluster.output.clear();
        }
        self.cluster.hold_machines = hold;
        Ok(())
    }

    fn propose(&mut self, id: u64, texts: &mut dyn Iterator<Item = String>) -> Result<()> {
        let commands: Vec<Bytes> = texts.map(Bytes::from).collect();
        let results = self.cluster.event(id, |node, now| {
            let take = |command: Bytes| node.propose(now, command).err();
            commands.into_iter().filter_map(take).collect::<Vec<_>>()
        });
        for error in results.ok_or("it is down")? {
            self.cluster.say(format!("n{id} refuses: {error}"));
        }
        Ok(())
    }

    /// The events that need only a few lines.
    fn event(&mut self, name: &str, args: &mut Args) -> Result<()> {
        let cluster = &mut self.cluster;
        match name {
            "system" => {
                let (id, text) = (args.id()?, args.words.pop().ok_or("which command?")?);
                let request = raft::Request::System(text.into());
                cluster.event(id, |node, now| node.propose(now, request).map(|_| ()));
            }
            "forward" => {
                let (id, in_session) = (args.id()?, args.flag("session"));
                let text = args.words.pop().ok_or("which command?")?;
                let request = match in_session {
                    true => raft::Request::SessionCommand(text.into()),
                    false => raft::Request::Command(text.into()),
                };
                let forwarded = cluster.event(id, |node, now| node.forward(now, request));
                if let Err(error) = forwarded.ok_or("it is down")? {
                    cluster.say(format!("n{id} refuses: {error}"));
                }
            }
            "read" => {
                let id = args.id()?;
                let mode = match args.flag("lease") {
                    true => ReadProof::Lease,
                    false => ReadProof::Linearizable,
                };
                // The node is polled after the token is printed, so the line of the token comes
                // first.
                let peer = cluster.peer(id);
                let node = peer.node.as_mut().ok_or("it is down")?;
                let line = match node.read(peer.now, mode) {
                    Ok(read) => format!("n{id} read {}", print::read(read)),
                    Err(error) => format!("n{id} refuses: {error}"),
                };
                cluster.say(line);
                cluster.event(id, |_, _| ());
            }
            "tick" => {
                let times = args.number("times")?.unwrap_or(1);
                let ids =
                    args.maybe_id().map_or(cluster.peers.keys().copied().collect(), |id| vec![id]);
                for _ in 0..times {
                    for id in &ids {
                        cluster.event(*id, |node, now| node.tick(now));
                    }
                }
            }
            "lead" => {
                let (id, times) = (args.id()?, args.number("times")?.unwrap_or(1));
                let mut among = vec![id];
                while let Some(other) = args.maybe_id() {
                    among.push(other);
                }
                if among.len() == 1 {
                    among = cluster.peers.keys().copied().collect();
                }
                for _ in 0..times {
                    cluster.event(id, |node, now| node.tick(now));
                    cluster.stabilize(&among);
                }
            }
            "run" => {
                let mut among = Vec::new();
                while let Some(id) = args.maybe_id() {
                    among.push(id);
                }
                if among.is_empty() {
                    among = cluster.peers.keys().copied().collect();
                }
                for _ in 0..args.number("times")?.ok_or("how many times?")? {
                    for id in &among {
                        cluster.event(*id, |node, now| node.tick(now));
                    }
                    cluster.stabilize(&among);
                }
            }
            "campaign" => {
                cluster.event(args.id()?, |node, now| node.campaign(now));
            }
            "transfer" => {
                let (id, to) = (args.id()?, args.number("to")?.map(NodeId));
                let mut begun = None;
                cluster.event(id, |node, now| begun = Some(node.transfer(now, to)));
                if let Some(Err(error)) = begun {
                    cluster.say(format!("n{id} does not hand over: {error}"));
                }
            }
            "ask" => {
                let id = args.id()?;
                let mut round = None;
                cluster.event(id, |node, now| round = node.ask_peers(now));
                cluster.say(format!("n{id} round {}", round.ok_or("it does not lead")?.0));
            }
            "members" => {
                let id = args.id()?;
                let since = args.number("since")?.map(Round);
                let force = args.flag("force");
                let list = args.key("learners").unwrap_or_default();
                let (version, catch_up_ms) = (args.number("version")?, args.number("catch_up_ms")?);
                let mut voters = BTreeSet::new();
                while let Some(voter) = args.maybe_id() {
                    voters.insert(NodeId(voter));
                }
                let mut members = BTreeMap::new();
                let learners = list.split(',').filter(|id| !id.is_empty()).map(str::parse::<u64>);
                let learners = learners.collect::<std::result::Result<Vec<_>, _>>()?;
                for node in voters.iter().map(|id| id.0).chain(learners) {
                    members.insert(NodeId(node), cluster.member(node));
                }
                let mut change = Change::to(members, voters);
                change.if_version = version.map(Index);
                change.force = force;
                change.since = since;
                change.catch_up_ms = catch_up_ms.unwrap_or(change.catch_up_ms);
                let mut begun = None;
                cluster.event(id, |node, now| begun = Some(node.set_members(now, change)));
                match begun {
                    Some(Err(error)) => {
                        cluster.say(format!("n{id} does not change the members: {error}"));
                    }
                    Some(Ok(index)) => cluster.say(format!("n{id} changes the members at {index}")),
                    None => {}
                }
            }
            "add" => {
                let id = args.id()?;
                let mut membership = Membership::default();
                // It was told that it is a learner, as nodes are that join.
                if args.number("told")? == Some(1)
                    && let Some(initial) = &cluster.initial
                {
                    membership = (*initial.membership).clone();
                    membership.members.insert(NodeId(id), cluster.member(id));
                }
                cluster.add(id, Snapshot::initial(membership));
                cluster.boot(id);
            }
            "flip" => {
                let id = args.id()?;
                cluster.peer(id).flipped = true;
            }
            "clock" => {
                let (id, wall_ms) = (args.id()?, args.id()?);
                let passed_ms = args.number("passed")?.unwrap_or_default();
                let now = &mut cluster.peer(id).now;
                now.monotonic_ns += passed_ms * 1_000_000;
                now.wall_ms = wall_ms;
            }
            "pass" => {
                let back_ms = args.number("back")?;
                let passed_ms = if back_ms.is_none() { args.id()? } else { 0 };
                let mut ids = Vec::new();
                while let Some(id) = args.maybe_id() {
                    ids.push(id);
                }
                for (id, peer) in &mut cluster.peers {
                    if ids.is_empty() || ids.contains(id) {
                        peer.now.monotonic_ns += passed_ms * 1_000_000;
                        peer.now.monotonic_ns -= back_ms.unwrap_or(0) * 1_000_000;
                    }
                }
            }
            "set" => {
                for (name, value) in std::mem::take(&mut args.keys) {
                    cluster.settings.push((name, value.parse()?));
                }
            }
            "cut" => {
                let (one, both) = (args.id()?, args.number("to")?);
                let others = match both.or_else(|| args.maybe_id()) {
                    Some(other) => vec![other],
                    None => cluster.peers.keys().copied().collect(),
                };
                for other in others {
                    cluster.cut.insert((one, other));
                    if both.is_none() {
                        cluster.cut.insert((other, one));
                    }
                }
            }
            "heal" => cluster.cut.clear(),
            "elect" => {
                let id = args.id()?;
                let mut among = vec![id];
                while let Some(voter) = args.maybe_id() {
                    among.push(voter);
                }
                if among.len() == 1 {
                    among = cluster.peers.keys().copied().collect();
                }
                cluster.elect(id, &among)?;
            }
            "unreachable" => {
                let (id, peer) = (args.id()?, args.id()?);
                cluster.event(id, |node, _| node.unreachable(NodeId(peer)));
            }
            "gone" => {
                let (id, peer) = (args.id()?, args.id()?);
                cluster.event(id, |node, _| node.gone(NodeId(peer)));
            }
            "sync" => {
                let (id, hold) = (args.id()?, args.flag("hold"));
                if !cluster.sync(id, hold) {
                    return Err("there is no write out".into());
                }
            }
            "receipt" => {
                if !cluster.receipt(args.id()?) {
                    return Err("there is no receipt".into());
                }
            }
            "machine" => {
                if !cluster.machine_done(args.id()?) {
                    return Err("the machine has nothing to do".into());
                }
            }
            "stabilize" => {
                let mut among = Vec::new();
                while let Some(id) = args.maybe_id() {
                    among.push(id);
                }
                if among.is_empty() {
                    among = cluster.peers.keys().copied().collect();
                }
                cluster.stabilize(&among);
            }
            _ => return Err("there is no such command".into()),
        }
        Ok(())
    }

    /// The messages that the arguments select, in order. They are removed from the network unless
    /// they `stay`.
    fn select(&mut self, args: &mut Args, stay: bool) -> Result<Vec<Message>> {
        if args.words.is_empty() && args.keys.is_empty() {
            let all = self.cluster.network.clone();
            self.cluster.network.truncate(if stay { all.len() } else { 0 });
            return Ok(all);
        }
        let (to, from) = (args.maybe_id(), args.number("from")?);
        let (kind, at) = (args.key("type"), args.number("at")?);
        let matches = |message: &Message| {
            let name = print::message(message, "→", self.cluster.show);
            let name = name.split(' ').nth(3).unwrap_or_default();
            to.is_none_or(|to| message.to.0 == to)
                && from.is_none_or(|from| message.from.0 == from)
                && kind.as_ref().is_none_or(|kind| kind == name)
        };
        let mut places: Vec<usize> = (self.cluster.network.iter().enumerate())
            .filter(|(_, message)| matches(message))
            .map(|(place, _)| place)
            .collect();
        if let Some(at) = at {
            places = places.get(at as usize - 1).copied().into_iter().collect();
        }
        if places.is_empty() {
            return Err("there is no such message".into());
        }
        let network = &mut self.cluster.network;
        let chosen = places.iter().map(|place| network[*place].clone()).collect();
        if !stay {
            for place in places.into_iter().rev() {
                network.remove(place);
            }
        }
        Ok(chosen)
    }

    fn deliver(&mut self, args: &mut Args) -> Result<()> {
        let (keep, reverse) = (args.flag("keep"), args.flag("reverse"));
        let mut messages = self.select(args, keep)?;
        if reverse {
            messages.reverse();
        }
        for message in messages {
            self.cluster.step(message);
        }
        Ok(())
    }

    /// Delivers a message that no node has sent.
    fn life(&mut self, name: &str, args: &mut Args) -> Result<()> {
        if args.words.is_empty() {
            let up = name == "crash";
            let chosen = self.cluster.peers.iter().filter(|(_, peer)| peer.node.is_some() == up);
            for id in chosen.map(|(id, _)| *id).collect::<Vec<u64>>() {
                match name {
                    "crash" => self.cluster.crash(id, false),
                    _ => self.cluster.boot(id),
                }
            }
            return Ok(());
        }
        let id = args.id()?;
        let initial = self.cluster.initial.clone().ok_or("there is no cluster")?;
        match name {
            "crash" => {
                let keep = args.flag("keep");
                self.cluster.crash(id, keep);
            }
            "restart" => self.cluster.boot(id),
            "wipe" => {
                let join = args.flag("join");
                let snapshot = match join {
                    true => Snapshot::initial(Membership::default()),
                    false => initial,
                };
                if self.cluster.peers[&id].node.is_some() {
                    self.cluster.crash(id, false);
                }
                let peer = self.cluster.peer(id);
                let incarnation = Incarnation(peer.disk.incarnation.0 + 100);
                peer.disk = super::disk::Disk::new(incarnation, snapshot);
                self.cluster.boot(id);
            }
            _ => {
                let index = Index(args.id()?);
                let (silent, promise) = (args.flag("silent"), args.flag("promise"));
                let peer = self.cluster.peer(id);
                if peer.node.is_some() {
                    return Err("it is up".into());
                }
                peer.disk.lose_from(index, silent);
                if promise {
                    peer.disk.hard_state.promise_ms = 0;
                }
            }
        }
        Ok(())
    }

    fn snapshot(&mut self, name: &str, args: &mut Args) -> Result<()> {
        let id = args.id()?;
        match name {
            "snapshot" => {
                let failed = args.flag("failed");
                let order = self.cluster.peer(id).taking.take().ok_or("none was asked for")?;
                let done = if failed { order.failed() } else { order.durable() };
                self.cluster.event(id, |node, now| node.compact(now, done));
            }
            "offer" => {
                let at = self.cluster.offers.iter().position(|offer| offer.to.0 == id);
                let offer = self.cluster.offers.remove(at.ok_or("there is no offer")?);
                if let Some(order) = self.cluster.accept(offer) {
                    self.cluster.peer(id).received.push(order);
                }
            }
            "install" => {
                let received = &mut self.cluster.peer(id).received;
                if received.is_empty() {
                    return Err("nothing was received".into());
                }
                let done = received.remove(0).durable();
                self.cluster.event(id, |node, now| node.install(now, done));
            }
            _ => {
                let peer = args.id()?;
                let delivered = args.flag("ok");
                if !delivered && !args.flag("failed") {
                    return Err("ok or failed?".into());
                }
                let resumed_at = args.number("resumed_at")?.unwrap_or_default();
                let status = SnapshotStatus::of(delivered, resumed_at);
                let at = self.sending.iter().position(|(f, t, _)| (*f, *t) == (id, peer));
                let (_, _, snapshot) = self.sending.remove(at.ok_or("no snapshot was sent")?);
                self.cluster.sent(id, peer, snapshot, status);
            }
        }
        Ok(())
    }

    /// Records the snapshots being sent, for the command `sent`.
    fn note_offers(&mut self) {
        for offer in &self.cluster.offers {
            let sending = (offer.from.0, offer.to.0, offer.snapshot.last);
            if !self.sending.contains(&sending) {
                self.sending.push(sending);
            }
        }
    }

    fn show(&mut self, name: &str, args: &mut Args) -> Result<()> {
        let ids = match args.maybe_id() {
            Some(id) => vec![id],
            None => self.cluster.peers.keys().copied().collect(),
        };
        for id in ids {
            let peer = &self.cluster.peers[&id];
            let text = match (name, &peer.node) {
                ("disk", _) => {
                    let hard = &peer.disk.hard_state;
                    let vote = hard.vote.map_or("none".to_string(), |vote| format!("n{vote}"));
                    let mut text = format!("n{id} disk term={} vote={vote}", hard.term);
                    let base = peer.disk.snapshot.last;
                    let _ = write!(text, " base={base} {}", print::entries(&peer.disk.entries));
                    if let Some(lost) = hard.lost {
                        let _ = write!(text, " lost={lost}");
                    }
                    text
                }
                (_, None) => format!("n{id} is down"),
                ("status", Some(node)) => print::status(node),
                ("log", Some(node)) => print::log(node),
                (_, Some(node)) => {
                    let counters = node.status().counters;
                    let named = [
                        ("misaddressed", counters.misaddressed),
                        ("wrong_incarnation", counters.wrong_incarnation),
                        ("strangers", counters.strangers),
                        ("invalid_messages", counters.invalid_messages),
                        ("disk_stepped_down", counters.disk_stepped_down),
                        ("states_differ", counters.states_differ),
                        ("stale_receipts", counters.stale_receipts),
                        ("lease_reads", counters.lease_reads),
                        ("gave_way", counters.gave_way),
                    ];
                    let set = named.iter().filter(|(_, count)| *count > 0);
                    let text: Vec<String> = set.map(|(n, count)| format!("{n}={count}")).collect();
                    format!("n{id} counters {}", text.join(" "))
                }
            };
            self.cluster.say(text);
        }
        Ok(())
    }
}
