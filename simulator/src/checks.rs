//! The promises that a simulation checks, by name. Simulations of this crate and of others share
//! them, since they run the same core, log and state machine.

use std::fmt;

pub use crate::observer::{Observed, Observer, has_answer};
pub use crate::shadow::{LogChange, Shadow, read};
pub use crate::timekeeping::Timekeeping;
pub use crate::violation::{About, Violation, violation};

macro_rules! checks {
    ($($(#[doc = $doc:literal])+ $check:ident = $name:literal,)*) => {
        /// A promise that a simulation checks. The documentation of each variant explains the
        /// promise; the page of a failure shows it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Check {
            $($(#[doc = $doc])+ $check,)*
        }

        impl Check {
            /// All checks, in the order of declaration.
            pub const ALL: &[Check] = &[$(Check::$check,)*];

            /// The name of the check, in words.
            pub fn name(self) -> &'static str {
                match self {
                    $(Check::$check => $name,)*
                }
            }

            /// The documentation of the check: what is promised.
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
    /// A client of the test has received an answer that it takes for impossible.
    AnswerSuitsTheClient = "an answer suits its client",
    /// The answer to a batch is done, certainly not done, or unknown. This answer was none of them.
    BatchIsAnsweredSoOrSo = "a batch is answered so or so",
    /// A change of the membership is reported as done once the entry of the declared membership is
    /// committed, and with the index of that. Who destroys a removed node before that may destroy
    /// one that still votes.
    ChangeIsDoneWhenItIsCommitted = "a change is done when it is committed",
    /// Once the faults are over, clients must get answers again.
    ClientsAreServedInTheEnd = "clients are served in the end",
    /// When the faults are over, an operator declares a membership again and again. It must come
    /// into force.
    DeclaredMembershipIsReachedInTheEnd = "the declared membership is reached in the end",
    /// A leader changes the membership only after the previous membership and an entry of its own
    /// term are committed (§4.1). Otherwise two changes can make two quorums without a common node.
    OneChangeOfTheMembershipAtATime = "one change of the membership at a time",
    /// A node that was removed learns it from its log or from the members, and stops.
    RemovedNodeStops = "a removed node stops",
    /// A directory that was removed from the membership is not admitted again: it may have voted,
    /// or lost what it acknowledged, without the others knowing.
    RemovedDirectoryIsNotAddedAgain = "a removed directory is not added again",
    /// Other voters come into force only by a membership with both halves, and the next one has the
    /// new half (§4.3).
    VotersChangeByAJointMembership = "voters change by a joint membership",
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
    /// An entry counts as committed once a quorum of the members has it on disk (§3.5). A node
    /// took this one for committed although too few disks held it: a crash could undo it.
    CommitIsDurableOnAQuorum = "a commit is durable on a quorum",
    /// Entries are committed in the order of the log.
    CommitsFollowOneAnother = "commits follow one another",
    /// A node whose state differs from that of the others is detected and repaired, as long as most
    /// nodes have the right state. This node continues with a wrong state.
    CopyThatDiffersIsFoundOut = "a copy that differs is found out",
    /// No vote, acknowledgement or request for votes leaves a node before what it promises is on
    /// the node's disk (§3.8): otherwise a crash could undo the promise.
    DurabilityBeforeSpeech = "durability before speech",
    /// A power failure at this moment would lose a write that was reported durable.
    DurableMeansDurable = "durable means durable",
    /// Nodes that have applied the same log must hold the same state.
    EqualLogsMakeEqualStates = "equal logs make equal states",
    /// When all is quiet, every healthy node must serve a read of its state.
    EveryNodeCanBeReadInTheEnd = "every node can be read in the end",
    /// Once the faults are over, every healthy node must catch up with the leader.
    EveryNodeCatchesUpInTheEnd = "every node catches up in the end",
    /// Once the faults are over, every node must run, except those that are gone for good.
    EveryNodeIsBackInTheEnd = "every node is back in the end",
    /// When all is quiet, every node must list the same commands.
    EveryNodeListsTheSame = "every node lists the same",
    /// When all is quiet every node answers a read with the same value and the same version.
    EveryNodeReadsTheSame = "every node reads the same",
    /// When all is quiet, every healthy node must serve reads, writes and listings, again and
    /// again. A node that always refuses has leaked a limited resource.
    EveryNodeServesInTheEnd = "every node serves in the end",
    /// Each field of an answer can be compared with another field or another answer: a count, a
    /// version, whether a key was found. Here the two differ.
    FieldsOfAnAnswerAreTrue = "the fields of an answer are true",
    /// All founders become members of the same cluster with the same membership, which names the
    /// incarnation that is on each one's disk.
    FoundersAgreeOnOneCluster = "founders agree on one cluster",
    /// A commit that is fetched by its number must be the one that the listing has under that
    /// number. Beyond the last number there is none.
    GetCommitSaysWhatTheListingSays = "get_commit says what the listing says",
    /// The clients' operations cannot be put into one order that fits both their times and their
    /// answers: the history is not linearizable.
    History = "the history",
    /// The history of the clients' requests must satisfy the check that the test defines for it.
    HistoryOfTheTest = "the test's check of the history",
    /// An invariant of the protocol core does not hold within one node.
    Invariant = "invariant",
    /// The invariant that the test defines for the state does not hold after a command.
    InvariantOfTheStateMachine = "the invariant of the state machine",
    /// A command that began after another was answered must stand later in the log; otherwise time
    /// went backwards for the clients.
    LaterCommandsComeLater = "later commands come later",
    /// A node that receives a later term from a member enters that term (§3.3). Otherwise nodes of
    /// different terms ignore each other, and a node that is behind may request votes for ever.
    LaterTermIsEnteredWhenItIsHeardOf = "a later term is entered when it is heard of",
    /// A write that began after another was answered must have a higher version.
    LaterWritesHaveHigherVersions = "later writes have higher versions",
    /// A leader may count copies only of entries of its own term; earlier entries are committed
    /// along with them (§3.6.2, Figure 8). An earlier entry on a majority can still be
    /// overwritten.
    LeaderCommitsByAnEntryOfItsTerm = "a leader commits by an entry of its term",
    /// Only a leader decides that an entry is committed; the others learn it from the leader. A
    /// follower took an entry for committed that no leader had committed.
    LeaderCommitsFirst = "a leader commits first",
    /// An elected leader must have every committed entry (§3.6.3). This leader lacks one: it will
    /// overwrite that entry on the others, and an acknowledged write is lost.
    LeaderCompleteness = "leader completeness",
    /// A leader needs the votes of a quorum, and each vote must be on its voter's disk (§3.4).
    /// Otherwise a second leader of the same term can be elected after a crash.
    LeaderHasAQuorumOfDurableVotes = "a leader has a quorum of durable votes",
    /// A leader that votes in no membership that is in force hands leadership over, or steps down,
    /// once that membership is committed (§4.2.2). This leader leads on.
    LeaderThatDoesNotVoteLeadsNoMore = "a leader that does not vote leads no more",
    /// A membership is in force as soon as it is in the log, and until the log loses it (§4.1).
    /// This node decides by another one.
    LatestMembershipIsInForce = "the latest membership in the log is in force",
    /// A node that receives an append of an earlier term replies, and the reply has its own term
    /// (§3.3). Otherwise that leader goes on until it misses a quorum.
    LeaderOfAnEarlierTermIsTold = "a leader of an earlier term is told",
    /// A leader without contact to a quorum steps down within two election timeouts (§6.2). This
    /// leader did not: its clients wait in vain.
    LeaderHearsAQuorumOrLeadsNoMore = "a leader hears a quorum or leads no more",
    /// When a leader is elected, the leases of all earlier leaders are over (§6.4.1), by the clocks
    /// of those. A read that this leader answers from its lease may miss what the later one has
    /// committed.
    LeaseEndsBeforeAnotherLeads = "a lease ends before another leads",
    /// A joint membership cannot be given up. So a change becomes joint only while a majority of
    /// the voters that it declares replies, and stores entries: each of them has replied within an
    /// election timeout, and has something on disk that the leader appended within the last two.
    JointMembershipHasAQuorumThatStores = "a joint membership has a quorum that stores",
    /// As long as a leader holds a lease, a quorum of the voters has promised to grant no vote, and
    /// is bound by that still, by its own clocks (§6.4.1). Learners do not count, and a joint
    /// membership needs both halves. Otherwise another leader may be elected meanwhile.
    LeaseRestsOnPromisesOfAQuorum = "a lease rests on promises of a quorum",
    /// A leader never overwrites or removes entries of its own log (§3.5).
    LeaderOnlyAppends = "a leader only appends",
    /// A leader whose disk stalls while the others commit steps down within a few election
    /// timeouts. This leader did not.
    LeaderWhoseDiskIsStalledStepsDown = "a leader whose disk is stalled steps down",
    /// The amount that a node sends, writes or applies at once, and has in flight to a peer, stays
    /// within its configuration. A single entry is always allowed.
    LimitsAreKept = "limits are kept",
    /// A listing of the commands holds every one that is retained, in the order of their numbers.
    /// One is missing.
    ListingHasNoGaps = "a listing has no gaps",
    /// The answer to a listing cannot be parsed as one.
    ListingIsAListing = "a listing is a listing",
    /// The answer to a listing has the commands or a reason why not. This answer had neither.
    ListingIsAnsweredSoOrSo = "a listing is answered so or so",
    /// A listing is a linearizable read: it contains every command that a client knew to be done
    /// before the request. This listing ends before.
    ListingIsFresh = "a listing is fresh",
    /// The commands of a listing come in the order of their numbers.
    ListingIsInOrder = "a listing is in order",
    /// A snapshot may be restored only once the log on the disk begins after it: otherwise a crash
    /// leaves a state and a log that do not belong together.
    LogBeginsAfterWhatIsRestored = "the log begins after what is restored",
    /// A node that gives its log up records the end of it as lost: it may have acknowledged all of
    /// it, and has no say until a leader has sent it that much again.
    LossIsRecordedWhole = "a loss is recorded whole",
    /// Segments whose entries a snapshot covers are reused or removed. The files of this log are
    /// larger than the entries that are still needed.
    LogTakesNoMoreRoomThanItNeeds = "the log takes no more room than it needs",
    /// The configured sizes bound the memory and disk usage of a node, and the requests that wait
    /// there. This node uses more: in the long run it fills up.
    MemoryAndLogStayBounded = "memory and log stay bounded",
    /// A node becomes a voter once it has caught up (§4.2.1): it has what its leader's log held one
    /// election timeout ago. Until then it is a learner. Otherwise the cluster may have to wait for
    /// it, while it receives a long log.
    NewVoterHasCaughtUp = "a new voter has caught up",
    /// A leader keeps a snapshot that it has offered to a peer, also when it has a newer one, until
    /// the peer has it, as long as its log has the entries after it. So a transfer that was cut off
    /// goes on with the same snapshot, and does not begin anew each time.
    OfferedSnapshotIsKept = "an offered snapshot is kept",
    /// A leader that has ordered another node to campaign holds no lease any more in that term,
    /// whatever becomes of the transfer: the order may still be under way, and the election that it
    /// starts waits for no promise (§6.4.1).
    NoLeaseAfterAnOrderToCampaign = "no lease after an order to campaign",
    /// Once the faults are over, the leader must not change.
    NoLeaderChangesWithoutAFault = "no leader changes without a fault",
    /// The run had far more events than such a run should have: some node repeats messages without
    /// end.
    NoStormOfMessages = "no storm of messages",
    /// A node in contact with a leader does not help to depose it (§4.2.3, §9.6). This node did:
    /// a partitioned node could disturb a working cluster.
    NobodyConsentsToAnElectionWhileItHearsALeader = "nobody consents to an election while it hears a leader",
    /// A node ends within a bounded time after a shutdown request, whatever its parts and clients
    /// wait for.
    NodeEndsWhenItIsToldTo = "a node ends when it is told to",
    /// A node stopped by itself although its disk had not failed. The detail is the reason that the
    /// node gave.
    NodeGoesOn = "a node goes on",
    /// A node that joins becomes a member of the cluster that the nodes on its list belong to.
    NodeJoinsItsOwnCluster = "a node joins its own cluster",
    /// A node whose disk was not damaged must come back from any crash. This one refused.
    NodeStartsAgain = "a node starts again",
    /// A node that shuts down closes its log: only then can the next start distinguish damage from
    /// a torn write. The disk had no fault, and closing failed.
    NodeStopsCleanly = "a node stops cleanly",
    /// A node that loses leadership without handing it over, or is not elected although a leader
    /// has ordered that, states priority 0 for 16 election timeouts. The pause doubles each time.
    /// This node stated a priority before its pause was over, so leadership may return to it too
    /// soon.
    NodeThatFailedAsALeaderPauses = "a node that failed as a leader pauses",
    /// Some time after a node has ended, each of its tasks must have ended too.
    NothingIsLeftOfANode = "nothing is left of a node",
    /// An assertion failed, in the library or in the state machine. The panic's place is in the
    /// output of the run.
    NothingPanics = "nothing panics",
    /// When no client waits any more, no call, proposal, read or wait may be left in a node: leaked
    /// ones fill the memory.
    NothingWaitsInTheEnd = "nothing waits in the end",
    /// A node keeps only the snapshot that its log begins after and, for a while, the one before.
    /// It removes all others.
    OldSnapshotsAreRemoved = "old snapshots are removed",
    /// At most one node may lead in a term (§3.2). Two leaders of one term accept different
    /// entries for the same place in the log.
    OneLeaderATerm = "one leader a term",
    /// Once the faults are over, exactly one leader must serve within a bounded time.
    OneLeaderServesInTheEnd = "one leader serves in the end",
    /// A node votes once in a term, and never loses its vote or its term (§3.4). This node
    /// reverted one: two candidates may both win the term.
    OneVoteATerm = "one vote a term",
    /// A node applies an entry only when its own disk holds it. So its state never holds more than
    /// it can recover.
    OnlyWhatIsDurableIsApplied = "only what is durable is applied",
    /// Only a leader replies to a command that a node has forwarded. Another node, even one that
    /// has led in this term, cannot say that the command was not appended: an earlier copy of the
    /// message may have arrived while it led.
    OnlyALeaderRepliesToForwardedCommands = "only a leader replies to forwarded commands",
    /// The core hands out a write only when the one before is durable.
    OneWriteIsOutAtATime = "one write is out at a time",
    /// A node drops its state only if that differs from the state of a quorum. The state of this
    /// node was right.
    OnlyACopyThatDiffersIsGivenUp = "only a copy that differs is given up",
    /// A state machine applied an entry that is not committed: it may never be.
    OnlyWhatIsCommittedIsApplied = "only what is committed is applied",
    /// A promise that a test defines.
    PromiseOfThisTest = "a promise of this test",
    /// A node that has failed as a leader states its priority again when its pause is over.
    PauseOfANodeEnds = "the pause of a node ends",
    /// When all nodes are healthy again, no voter has a higher priority than the leader. A node
    /// that has failed as a leader has none for a while.
    PreferredNodeLeadsInTheEnd = "a preferred node leads in the end",
    /// A node that has promised its leader to grant no vote for some time keeps that promise, even
    /// if it restarts meanwhile (§6.4.1). The lease of its leader rests on it. Elections that a
    /// leader has ordered are exempt.
    PromiseToALeaderIsKept = "a promise to a leader is kept",
    /// The answer to a proposal is its result, certainly not done, or unknown. This answer differs
    /// from the outcome of the entry.
    ProposalIsAnsweredWithWhatBecameOfIt = "a proposal is answered with what became of it",
    /// The answer to a read is the value, its absence, or a refusal. This answer was none of them.
    ReadIsAnsweredWithAValue = "a read is answered with a value",
    /// A read is served only when a quorum has received a message that a leader sent after the read
    /// was requested (§6.4). Earlier messages do not show whether another node leads by now.
    ReadIsConfirmedSinceItWasAskedFor = "a read is confirmed since it was asked for",
    /// A linearizable read must see everything that was acknowledged to any client before the
    /// request (§6.4). This one was served from an older state.
    ReadsAreFresh = "reads are fresh",
    /// A node must recover from its disk exactly what it had reported durable, with at most the one
    /// outstanding write in addition.
    RecoveryIsExact = "recovery is exact",
    /// The answer to a removal is done, certainly not done, or unknown. This answer was none of
    /// them.
    RemovalIsAnsweredSoOrSo = "a removal is answered so or so",
    /// A replay of the commits, of all of them or of those after an earlier copy, must give the
    /// values that reads return.
    ReplayOfTheListingIsTheStore = "a replay of the listing is the store",
    /// A snapshot covers only committed entries, and is restored while nothing else is applied.
    RestoredSnapshotIsCommitted = "a restored snapshot is committed",
    /// A snapshot must cover exactly the entries that were committed (§5.1).
    SnapshotHoldsWhatWasCommitted = "a snapshot holds what was committed",
    /// A snapshot has the membership that was in force at its last entry (§5.1), not an earlier or
    /// a later one.
    SnapshotHasTheMembershipAtItsEnd = "a snapshot has the membership at its end",
    /// A snapshot is labelled with the entry that was applied last when it was taken (§5.1).
    SnapshotIsOfWhatIsApplied = "a snapshot is of what is applied",
    /// The state machine must accept the snapshots that it wrote.
    SnapshotIsRestored = "a snapshot is restored",
    /// Restoring a snapshot and taking one again must give the same bytes: otherwise something is
    /// missing from it, or it is not deterministic.
    SnapshotIsTheState = "a snapshot is the state",
    /// A snapshot that is finished is complete, and has the same bytes as every other snapshot of
    /// the same entry. A transfer that was cut off relies on it: it may go on with the snapshot of
    /// another node.
    SnapshotsOfOneEntryAreEqual = "snapshots of one entry are equal",
    /// A log that begins after a snapshot is of no use without that snapshot.
    SnapshotThatTheLogBeginsAfterIsThere = "the snapshot that the log begins after is there",
    /// A snapshot is due after a configured number of applied bytes, and then the log begins after
    /// it. This log holds more: in the long run the node fills its memory.
    SnapshotsKeepTheLogShort = "snapshots keep the log short",
    /// The same commands in the same order must give the same answers on every node. Usually
    /// something is missing from the snapshot, or apply reads a clock or a random number.
    StateMachineIsDeterministic = "the state machine is deterministic",
    /// A command of a session is executed once, however often it is proposed, and each repeat gets
    /// the reply of the first time. A session ends when it has not been used for its time, and not
    /// before.
    RepeatsGetTheFirstReply = "repeats get the first reply",
    /// A node's term never falls, not even across a crash (§3.3).
    TermGrows = "term grows",
    /// A node enters a term of its own only when a quorum would elect it (§9.6), so that a
    /// partitioned node does not disturb the others. This node did not have that consent.
    TermIsEnteredWithTheConsentOfAQuorum = "a term is entered with the consent of a quorum",
    /// The times that leaders write into the log never fall along it.
    TimeOfTheLogDoesNotGoBack = "the time of the log does not go back",
    /// The time that entries carry runs no faster than the fastest clock, whatever a single wall
    /// clock reads. Otherwise a lease ends too early.
    TimeOfTheLogRunsNoFasterThanAClock = "the time of the log runs no faster than a clock",
    /// While no node restarts, the time that entries carry runs no slower than the slowest clock,
    /// through silence and elections. Otherwise a lease outlives its time.
    TimeOfTheLogRunsNoSlowerThanAClock = "the time of the log runs no slower than a clock",
    /// The number at the start of a value determines all bytes of it. The value that was read has
    /// other bytes after the number: some are missing or changed.
    ValueIsReadAsItWasWritten = "a value is read as it was written",
    /// A version names one write to one key. Two answers give different values for the same
    /// version.
    VersionIsOneValue = "a version is one value",
    /// A wait for a command by its number and term returns that command, or that it was superseded;
    /// never another command.
    WaitCommitIsOfTheCommandThatWasSubmitted = "wait_commit is of the command that was submitted",
    /// An entry that was committed at an index stays there on every node (§3.2, State Machine
    /// Safety). A node has committed another one.
    WhatIsCommittedNeverChanges = "what is committed never changes",
    /// Two clients received different commands under the same number.
    WhatIsCommittedNeverChangesForClients = "what is committed never changes for clients",
    /// The core takes something for durable that the disk does not hold.
    WhatIsDurableIsOnTheDisk = "what is durable is on the disk",
    /// A snapshot that a node could not read is not offered to a peer again, unless the node has
    /// stored it again. Otherwise the peer waits for a snapshot that never arrives, and the log
    /// after it is kept for nothing.
    UnreadableSnapshotIsNotOfferedAgain = "an unreadable snapshot is not offered again",
    /// When the faults are over, a node keeps at most as many proposals, reads and waits as clients
    /// wait for.
    WhatWaitsIsWhatClientsAskFor = "what waits is what clients ask for",
    /// A node that knows it has lost entries must get them back from its peers.
    WhatWasLostIsRepairedInTheEnd = "what was lost is repaired in the end",
    /// A node that has lost acknowledged entries cannot judge which logs are up to date. Until a
    /// leader has sent it everything again, it neither votes nor requests votes.
    WhoHasLostWhatItAcknowledgedHasNoSay = "who has lost what it acknowledged has no say",
    /// A member whose disk was replaced by an empty one cannot bootstrap its cluster a second time:
    /// it would vote twice.
    WipedDiskIsNoFounderAgain = "a wiped disk is no founder again",
    /// The answer to a write is done, certainly not done, or unknown. This answer was none of them.
    WriteIsAnsweredSoOrSo = "a write is answered so or so",
    /// The refusal of a write names the version that was there. This one meets the condition.
    WriteIsRefusedOnlyIfItsConditionIsNotMet = "a write is refused only if its condition is not met",
    /// A node that reports itself ready knows a leader: without one it serves no request.
    ReadyNodeKnowsALeader = "a ready node knows a leader",
    /// In the end every copy of the state machine gives the same answer to a query, and so does a
    /// machine that is restored from its snapshot.
    QueriesAreAnsweredAlike = "queries are answered alike",
    /// The same plan gives the same run, event by event. This one did not: a clock, a random number
    /// or the order of a hash map decides something in the state machine or in a client.
    RunRepeats = "a run repeats",
}
