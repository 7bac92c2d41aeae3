//! What a simulation checks, by name, for simulations of this crate and of others: what they look at
//! is the same core, log and state machine.

use std::fmt;

pub use crate::observer::{Observed, Observer, Violation, violation};
pub use crate::shadow::{Change, Shadow};
pub use crate::timekeeping::Timekeeping;

macro_rules! checks {
    ($($(#[doc = $doc:literal])+ $check:ident = $name:literal,)*) => {
        /// A promise that a simulation checks. The documentation of each is what is promised; a failure
        /// page shows it to the reader who sees the promise broken for the first time.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Check {
            $($(#[doc = $doc])+ $check,)*
        }

        impl Check {
            /// All checks.
            pub const ALL: &[Check] = &[$(Check::$check,)*];

            /// Its name, in words.
            pub fn name(self) -> &'static str {
                match self {
                    $(Check::$check => $name,)*
                }
            }

            /// What is promised.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Check::$check => concat!($($doc),+).trim_ascii(),)*
                }
            }
        }
    };
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

checks! {
    /// A state machine applies the entries one after another, none twice and none left out (§3.2).
    AppliedOnceAndInOrder = "applied once and in order",
    /// A state machine that applies several commands at once returns one answer for each of them.
    BatchHasAnAnswerForEachCommand = "a batch has an answer for each command",
    /// A batch is done, certainly not done, or nobody knows; it was answered with something else.
    BatchIsAnsweredSoOrSo = "a batch is answered so or so",
    /// Once the faults are over, clients must get answers again.
    ClientsAreServedInTheEnd = "clients are served in the end",
    /// Once the faults are over, every request that a client has sent must end, with an answer or
    /// without.
    ClientsGetAnAnswerInTheEnd = "clients get an answer in the end",
    /// The answer that a client got is not the one that the command has when the committed log is
    /// applied in order.
    ClientsHearWhatWasDone = "clients hear what was done",
    /// The founders of a cluster become its members, however often their power fails meanwhile,
    /// once all are up together.
    ClusterBootstrapsItself = "a cluster bootstraps itself",
    /// The commands of the log carry the numbers 0, 1, 2 and so on, without a gap.
    CommandsAreNumberedDensely = "commands are numbered densely",
    /// A running node's commit index never falls.
    CommitGrows = "commit grows",
    /// An entry counts as committed once a quorum of the members has it on disk (§5.3). This one
    /// was called committed although too few disks held it: a crash could take it back.
    CommitIsDurableOnAQuorum = "a commit is durable on a quorum",
    /// Entries are committed in the order of the log.
    CommitsFollowOneAnother = "commits follow one another",
    /// A node that has applied something else than the others is found out and repaired, as long as
    /// most nodes have the right copy. This one goes on with a wrong copy.
    CopyThatDiffersIsFoundOut = "a copy that differs is found out",
    /// No vote, acknowledgement or request for votes leaves a node before what it promises is on
    /// the node's disk (§3.8): after a crash the node would break its word.
    DurabilityBeforeSpeech = "durability before speech",
    /// If the power had failed at this moment, a write that was reported durable would have been
    /// gone.
    DurableMeansDurable = "durable means durable",
    /// Nodes that have applied the same log must hold the same state.
    EqualLogsMakeEqualStates = "equal logs make equal states",
    /// When all is quiet, every healthy node must serve a read of what it has.
    EveryNodeCanBeReadInTheEnd = "every node can be read in the end",
    /// Once the faults are over, every healthy node must catch up with the leader.
    EveryNodeCatchesUpInTheEnd = "every node catches up in the end",
    /// Once the faults are over, every node must run that is not gone for good.
    EveryNodeIsBackInTheEnd = "every node is back in the end",
    /// When all is quiet, every node must list the same commands.
    EveryNodeListsTheSame = "every node lists the same",
    /// When all is quiet every node answers a read with the same value and the same version.
    EveryNodeReadsTheSame = "every node reads the same",
    /// When all is quiet, every healthy node must do what it is asked, again and again: read, write
    /// and list. One that refuses for ever has run out of something.
    EveryNodeServesInTheEnd = "every node serves in the end",
    /// Each field of an answer says something that another field, or another answer, says too: a
    /// count, a version, whether a key was found. Here the two differ.
    FieldsOfAnAnswerAreTrue = "the fields of an answer are true",
    /// All founders become members of the same cluster with the same membership, which names the
    /// incarnation that is on each one's disk.
    FoundersAgreeOnOneCluster = "founders agree on one cluster",
    /// A commit that is asked for by its number must be the one that the listing has under it, and
    /// none beyond the last.
    GetCommitSaysWhatTheListingSays = "get_commit says what the listing says",
    /// The clients' operations cannot be put into one order that fits both their times and their
    /// answers: the history is not linearizable.
    History = "the history",
    /// An invariant of the protocol core does not hold within one node.
    Invariant = "invariant",
    /// What the test says must hold of the state after every command does not hold.
    InvariantOfTheStateMachine = "the invariant of the state machine",
    /// A command that began after another was answered must stand later in the log; otherwise time
    /// went backwards for the clients.
    LaterCommandsComeLater = "later commands come later",
    /// A node that a member tells of a later term enters that term (§3.3). Otherwise nodes of
    /// different terms talk past each other, and one that is behind may ask for votes for ever.
    LaterTermIsEnteredWhenItIsHeardOf = "a later term is entered when it is heard of",
    /// A write that began after another was answered must have a higher version.
    LaterWritesHaveHigherVersions = "later writes have higher versions",
    /// A leader may count copies only of entries of its own term; what is earlier is committed
    /// along with them (§3.6.2, Figure 8). An earlier entry on a majority can still be overwritten.
    LeaderCommitsByAnEntryOfItsTerm = "a leader commits by an entry of its term",
    /// Only a leader finds out that an entry is committed; the others hear it from the leader. A
    /// follower took an entry for committed that no leader had committed.
    LeaderCommitsFirst = "a leader commits first",
    /// Whoever is elected must have every committed entry (§3.6.3). This leader lacks one: it will
    /// overwrite it on the others, and what a client was told is lost.
    LeaderCompleteness = "leader completeness",
    /// A leader needs the votes of a quorum, and each vote must be on its voter's disk (§3.4).
    /// Otherwise a second leader of the same term can be elected after a crash.
    LeaderHasAQuorumOfDurableVotes = "a leader has a quorum of durable votes",
    /// A leader that hears no quorum steps down within two election timeouts (§6.2). This one goes
    /// on: its clients wait for nothing.
    LeaderHearsAQuorumOrLeadsNoMore = "a leader hears a quorum or leads no more",
    /// A leader never overwrites or removes entries of its own log (§3.5).
    LeaderOnlyAppends = "a leader only appends",
    /// A leader whose disk does not answer, while the others commit, leaves the lead to them within
    /// a few election timeouts. This one went on.
    LeaderWhoseDiskIsStalledStepsDown = "a leader whose disk is stalled steps down",
    /// What a node sends, writes or applies at once, and what it has under way to a peer, is no
    /// more than it was configured to; a single entry may always go.
    LimitsAreKept = "limits are kept",
    /// A listing of the commands holds every one that is retained, in the order of their numbers.
    /// One is missing.
    ListingHasNoGaps = "a listing has no gaps",
    /// A listing was answered with something that cannot be read as one.
    ListingIsAListing = "a listing is a listing",
    /// A listing is answered with the commands or with a reason why not. This was neither.
    ListingIsAnsweredSoOrSo = "a listing is answered so or so",
    /// A listing is a linearizable read: every command that somebody knew to be done before it was
    /// asked for is in it. This one ends before.
    ListingIsFresh = "a listing is fresh",
    /// The commands of a listing come in the order of their numbers.
    ListingIsInOrder = "a listing is in order",
    /// A snapshot may be restored only once the log on the disk begins after it: otherwise a crash
    /// leaves a state and a log that do not belong together.
    LogBeginsAfterWhatIsRestored = "the log begins after what is restored",
    /// Segments whose entries a snapshot stands for are used again, or removed. The files of this
    /// log are larger than what is still needed of them.
    LogTakesNoMoreRoomThanItNeeds = "the log takes no more room than it needs",
    /// What a node keeps in memory and on its disk, and how many requests wait there, follows from
    /// the sizes in its configuration. This node keeps more: in the long run it fills up.
    MemoryAndLogStayBounded = "memory and log stay bounded",
    /// When nothing goes wrong any more, a leader must stay one.
    NoLeaderChangesWithoutAFault = "no leader changes without a fault",
    /// The run had far more events than such a run has: somebody keeps repeating itself.
    NoStormOfMessages = "no storm of messages",
    /// A node that hears a leader helps nobody to depose it (§4.2.3, §9.6). This one did: a node
    /// that was cut off could disturb a cluster that works.
    NobodyConsentsToAnElectionWhileItHearsALeader = "nobody consents to an election while it hears a leader",
    /// A node that is told to stop ends within a bounded time, whatever its parts and clients wait
    /// for.
    NodeEndsWhenItIsToldTo = "a node ends when it is told to",
    /// A node stopped by itself though its disk had not failed: what it said is the reason.
    NodeGoesOn = "a node goes on",
    /// A node that joins becomes a member of the cluster that the nodes on its list belong to.
    NodeJoinsItsOwnCluster = "a node joins its own cluster",
    /// A node whose disk was not damaged must come back from any crash. This one refused.
    NodeStartsAgain = "a node starts again",
    /// A node that is told to stop closes its log: only then can damage found at the next start be
    /// told from a write that was cut off. Its disk does what it is told, and closing failed.
    NodeStopsInGoodOrder = "a node stops in good order",
    /// Some time after a node has ended, each of its tasks must have ended too.
    NothingIsLeftOfANode = "nothing is left of a node",
    /// An assertion failed, in the library or in the state machine. The panic's place is in the
    /// output of the run.
    NothingPanics = "nothing panics",
    /// When nobody asks for anything any more, no call, proposal, read or wait may be left in a
    /// node: what is kept for nobody fills the memory.
    NothingWaitsInTheEnd = "nothing waits in the end",
    /// Of the snapshots that a node has written or was sent, it keeps the one that its log begins
    /// after, and the one before for a while.
    OldSnapshotsAreRemoved = "old snapshots are removed",
    /// At most one node may lead in a term (§3.2). Two leaders of one term accept different entries
    /// for the same place in the log.
    OneLeaderATerm = "one leader a term",
    /// Once the faults are over, exactly one leader must serve within a bounded time.
    OneLeaderServesInTheEnd = "one leader serves in the end",
    /// A node votes once in a term, and never forgets its vote or its term (§3.4). It took one
    /// back: two candidates may both win the term.
    OneVoteATerm = "one vote a term",
    /// The core gives out a write only when the one before is durable.
    OneWriteIsOutAtATime = "one write is out at a time",
    /// A node gives its copy up only if it differs from that of a quorum. The copy of this one was
    /// right.
    OnlyACopyThatDiffersIsGivenUp = "only a copy that differs is given up",
    /// A state machine applied an entry that is not committed: it may never be.
    OnlyWhatIsCommittedIsApplied = "only what is committed is applied",
    /// A promise that a test makes up.
    PromiseOfThisTest = "a promise of this test",
    /// Whoever proposes a command hears its result, or that it was certainly not done, or that
    /// nobody can tell. What this proposer heard is not what became of its entry.
    ProposalIsAnsweredWithWhatBecameOfIt = "a proposal is answered with what became of it",
    /// A read is answered with the value or with its absence, unless it is refused. This was
    /// something else.
    ReadIsAnsweredWithAValue = "a read is answered with a value",
    /// A read is served only when a quorum has heard from a leader after the read was asked for
    /// (§6.4). What was said before does not tell whether somebody else leads by now.
    ReadIsConfirmedSinceItWasAskedFor = "a read is confirmed since it was asked for",
    /// A linearizable read must see everything that was answered to anybody before it was asked
    /// (§6.4). This one was served from an older state.
    ReadsAreFresh = "reads are fresh",
    /// What a node finds on its disk when it starts must be what it had reported durable: no less,
    /// and no more than the one write that was under way.
    RecoveryIsExact = "recovery is exact",
    /// A removal is done, certainly not done, or nobody knows; it was answered with something else.
    RemovalIsAnsweredSoOrSo = "a removal is answered so or so",
    /// Whoever replays the commits, all of them or those that came after what they have, must come
    /// to what a read finds.
    ReplayOfTheListingIsTheStore = "a replay of the listing is the store",
    /// A snapshot stands for entries that are committed, and is restored while nothing else is
    /// applied.
    RestoredSnapshotIsCommitted = "a restored snapshot is committed",
    /// What a snapshot stands for must be the entries that were committed, and no others (§5.3).
    SnapshotHoldsWhatWasCommitted = "a snapshot holds what was committed",
    /// A snapshot is labelled with the entry that was applied last when it was taken (§5.1).
    SnapshotIsOfWhatIsApplied = "a snapshot is of what is applied",
    /// The state machine must accept the snapshots that it wrote.
    SnapshotIsRestored = "a snapshot is restored",
    /// Restoring a snapshot and taking one again must give the same bytes: otherwise something is
    /// missing from it, or it is not deterministic.
    SnapshotIsTheState = "a snapshot is the state",
    /// A log that begins after a snapshot is of no use without that snapshot.
    SnapshotThatTheLogBeginsAfterIsThere = "the snapshot that the log begins after is there",
    /// A snapshot is due whenever so many bytes are applied, and then the log begins after it. This
    /// log holds more: a node that goes on like that fills its memory.
    SnapshotsKeepTheLogShort = "snapshots keep the log short",
    /// The same commands in the same order must give the same answers on every node. Usually
    /// something is missing from the snapshot, or apply reads a clock or a random number.
    StateMachineIsDeterministic = "the state machine is deterministic",
    /// A node's term never falls, not even across a crash (§3.3).
    TermGrows = "term grows",
    /// A node enters a term of its own only when a quorum would elect it (§9.6), so that whoever
    /// was cut off does not disturb the others. This one did without.
    TermIsEnteredWithTheConsentOfAQuorum = "a term is entered with the consent of a quorum",
    /// The times that leaders write into the log never fall along it.
    TimeOfTheLogDoesNotGoBack = "the time of the log does not go back",
    /// The time that entries carry runs no faster than the fastest clock, whatever a single wall
    /// clock reads. Otherwise a lease ends too early.
    TimeOfTheLogRunsNoFasterThanAClock = "the time of the log runs no faster than a clock",
    /// While no node starts anew, the time that entries carry runs no slower than the slowest
    /// clock, through silence and elections. Otherwise a lease outlives its time.
    TimeOfTheLogRunsNoSlowerThanAClock = "the time of the log runs no slower than a clock",
    /// What follows the number of a value depends on the number alone. What was read has the number
    /// and other bytes: some are missing, or were changed on their way.
    ValueIsReadAsItWasWritten = "a value is read as it was written",
    /// A version names one write to one key. Two answers say of the same version that it is
    /// different values.
    VersionIsOneValue = "a version is one value",
    /// Whoever waits for a command by its number and its term is told of that command, or that it
    /// was superseded; never of another.
    WaitCommitIsOfTheCommandThatWasSubmitted = "wait_commit is of the command that was submitted",
    /// An entry that was committed at an index is there for good, on every node (§3.2, State
    /// Machine Safety). A node has committed another one.
    WhatIsCommittedNeverChanges = "what is committed never changes",
    /// Two clients were told of different commands under the same number.
    WhatIsCommittedNeverChangesForClients = "what is committed never changes for clients",
    /// What the core takes for durable is not what the disk holds.
    WhatIsDurableIsOnTheDisk = "what is durable is on the disk",
    /// When the faults are over, no more proposals, reads and waits are kept in a node than clients
    /// wait for.
    WhatWaitsIsWhatClientsAskFor = "what waits is what clients ask for",
    /// A node that knows it has lost entries must get them back from its peers.
    WhatWasLostIsRepairedInTheEnd = "what was lost is repaired in the end",
    /// A node that has lost entries which it had acknowledged cannot tell whose log is up to date.
    /// Until a leader has given it everything again, it neither votes nor asks for votes.
    WhoHasLostWhatItAcknowledgedHasNoSay = "who has lost what it acknowledged has no say",
    /// A member whose disk was replaced by an empty one cannot bootstrap its cluster a second time:
    /// it would vote twice.
    WipedDiskIsNoFounderAgain = "a wiped disk is no founder again",
    /// A write is done, certainly not done, or nobody knows; it was answered with something else.
    WriteIsAnsweredSoOrSo = "a write is answered so or so",
    /// Who is refused is told which version was there. Here it is one that meets the condition.
    WriteIsRefusedOnlyIfItsConditionIsNotMet = "a write is refused only if its condition is not met",
    /// In the end every copy of the state machine answers a query as every other copy does, and so does
    /// a machine that is restored from its snapshot.
    QueriesAreAnsweredAlike = "queries are answered alike",
    /// The same plan gives the same run, event by event. This one did not: a clock, a random number or
    /// the order of a hash map decides something in the state machine or in a client.
    RunRepeats = "a run repeats",
}
