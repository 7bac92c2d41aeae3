//! What each promise means, for whoever sees it broken for the first time.

/// In a sentence or two; `None` for a check that is not known here.
pub fn meaning(check: &str) -> Option<&'static str> {
    Some(match check {
        "a batch is answered so or so" => {
            "A batch is done, certainly not done, or nobody knows; it was answered with something \
             else."
        }
        "a commit is durable on a quorum" => {
            "An entry counts as committed once a quorum of the members has it on disk (§5.3). This one \
             was called committed although too few disks held it: a crash could take it back."
        }
        "a later term is entered when it is heard of" => {
            "A node that a member tells of a later term enters that term (§3.3). Otherwise nodes of \
             different terms talk past each other, and one that is behind may ask for votes for ever."
        }
        "a leader commits by an entry of its term" => {
            "A leader may count copies only of entries of its own term; what is earlier is committed \
             along with them (§3.6.2, Figure 8). An earlier entry on a majority can still be overwritten."
        }
        "a leader commits first" => {
            "Only a leader finds out that an entry is committed; the others hear it from the leader. \
             A follower took an entry for committed that no leader had committed."
        }
        "a leader has a quorum of durable votes" => {
            "A leader needs the votes of a quorum, and each vote must be on its voter's disk (§3.4). \
             Otherwise a second leader of the same term can be elected after a crash."
        }
        "a leader hears a quorum or leads no more" => {
            "A leader that hears no quorum steps down within two election timeouts (§6.2). This one goes \
             on: its clients wait for nothing."
        }
        "a leader only appends" => {
            "A leader never overwrites or removes entries of its own log (§3.5)."
        }
        "a listing has no gaps" => {
            "A listing of the commands holds every one that is retained, in the order of their \
             numbers. One is missing."
        }
        "a listing is a listing" => {
            "A listing was answered with something that cannot be read as one."
        }
        "a listing is answered so or so" => {
            "A listing is answered with the commands or with a reason why not. This was neither."
        }
        "a listing is fresh" => {
            "A listing is a linearizable read: every command that somebody knew to be done before \
             it was asked for is in it. This one ends before."
        }
        "a listing is in order" => "The commands of a listing come in the order of their numbers.",
        "a node ends when it is told to" => {
            "A node that is told to stop ends within a bounded time, whatever its parts and \
             clients wait for."
        }
        "a node goes on" => {
            "A node stopped by itself though its disk had not failed: what it said is the reason."
        }
        "a node starts again" => {
            "A node whose disk was not damaged must come back from any crash. This one refused."
        }
        "a read is answered with a value" => {
            "A read is answered with the value or with its absence, unless it is refused. This \
             was something else."
        }
        "a removal is answered so or so" => {
            "A removal is done, certainly not done, or nobody knows; it was answered with something \
             else."
        }
        "a proposal is answered with what became of it" => {
            "Whoever proposes a command hears its result, or that it was certainly not done, or that nobody \
             can tell. What this proposer heard is not what became of its entry."
        }
        "a read is confirmed since it was asked for" => {
            "A read is served only when a quorum has heard from a leader after the read was asked for \
             (§6.4). What was said before does not tell whether somebody else leads by now."
        }
        "a restored snapshot is committed" => {
            "A snapshot stands for entries that are committed, and is restored while nothing else is \
             applied."
        }
        "a snapshot holds what was committed" => {
            "What a snapshot stands for must be the entries that were committed, and no others (§5.3)."
        }
        "a snapshot is of what is applied" => {
            "A snapshot is labelled with the entry that was applied last when it was taken (§5.1)."
        }
        "a snapshot is restored" => "The state machine must accept the snapshots that it wrote.",
        "a snapshot is the state" => {
            "Restoring a snapshot and taking one again must give the same bytes: otherwise something is \
             missing from it, or it is not deterministic."
        }
        "a term is entered with the consent of a quorum" => {
            "A node enters a term of its own only when a quorum would elect it (§9.6), so that whoever \
             was cut off does not disturb the others. This one did without."
        }
        "a value is read as it was written" => {
            "What follows the number of a value depends on the number alone. What was read has the \
             number and other bytes: some are missing, or were changed on their way."
        }
        "a version is one value" => {
            "A version names one write to one key. Two answers say of the same version that it is \
             different values."
        }
        "a write is answered so or so" => {
            "A write is done, certainly not done, or nobody knows; it was answered with something \
             else."
        }
        "applied once and in order" => {
            "A state machine applies the entries one after another, none twice and none left out (§3.2)."
        }
        "clients are served in the end" => {
            "Once the faults are over, clients must get answers again."
        }
        "clients get an answer in the end" => {
            "Once the faults are over, every request that a client has sent must end, with an \
             answer or without."
        }
        "clients hear what was done" => {
            "The answer that a client got is not the one that the command has when the committed log is \
             applied in order."
        }
        "commands are numbered densely" => {
            "The commands of the log carry the numbers 0, 1, 2 and so on, without a gap."
        }
        "commit grows" => "A running node's commit index never falls.",
        "commits follow one another" => "Entries are committed in the order of the log.",
        "durability before speech" => {
            "No vote, acknowledgement or request for votes leaves a node before what it promises is on \
             the node's disk (§3.8): after a crash the node would break its word."
        }
        "durable means durable" => {
            "If the power had failed at this moment, a write that was reported durable would have been \
             gone."
        }
        "equal logs make equal states" => {
            "Nodes that have applied the same log must hold the same state."
        }
        "every node can be read in the end" => {
            "When all is quiet, every healthy node must serve a read of what it has."
        }
        "every node catches up in the end" => {
            "Once the faults are over, every healthy node must catch up with the leader."
        }
        "every node is back in the end" => {
            "Once the faults are over, every node must run that is not gone for good."
        }
        "every node serves in the end" => {
            "When all is quiet, every healthy node must do what it is asked, again and again: read, write \
             and list. One that refuses for ever has run out of something."
        }
        "get_commit says what the listing says" => {
            "A commit that is asked for by its number must be the one that the listing has under it, and \
             none beyond the last."
        }
        "a replay of the listing is the store" => {
            "Whoever replays the commits, all of them or those that came after what they have, must come \
             to what a read finds."
        }
        "a write is refused only if its condition is not met" => {
            "Who is refused is told which version was there. Here it is one that meets the condition."
        }
        "every node lists the same" => "When all is quiet, every node must list the same commands.",
        "invariant" => "An invariant of the protocol core does not hold within one node.",
        "later commands come later" => {
            "A command that began after another was answered must stand later in the log; otherwise \
             time went backwards for the clients."
        }
        "later writes have higher versions" => {
            "A write that began after another was answered must have a higher version."
        }
        "leader completeness" => {
            "Whoever is elected must have every committed entry (§3.6.3). This leader lacks one: it will \
             overwrite it on the others, and what a client was told is lost."
        }
        "memory and log stay bounded" => {
            "What a node keeps in memory and on its disk, and how many requests wait there, follows from \
             the sizes in its configuration. This node keeps more: in the long run it fills up."
        }
        "nobody consents to an election while it hears a leader" => {
            "A node that hears a leader helps nobody to depose it (§4.2.3, §9.6). This one did: a node that \
             was cut off could disturb a cluster that works."
        }
        "no leader changes without a fault" => {
            "When nothing goes wrong any more, a leader must stay one."
        }
        "no storm of messages" => {
            "The run had far more events than such a run has: somebody keeps repeating itself."
        }
        "nothing is left of a node" => {
            "Some time after a node has ended, each of its tasks must have ended too."
        }
        "nothing panics" => {
            "An assertion failed, in the library or in the state machine. The panic's place is in the \
             output of the run."
        }
        "nothing waits in the end" => {
            "When nobody asks for anything any more, no call, proposal, read or wait may be left in a node: \
             what is kept for nobody fills the memory."
        }
        "old snapshots are removed" => {
            "Of the snapshots that a node has written or was sent, it keeps the one that its log begins \
             after, and the one before for a while."
        }
        "one leader a term" => {
            "At most one node may lead in a term (§3.2). Two leaders of one term accept different \
             entries for the same place in the log."
        }
        "one leader serves in the end" => {
            "Once the faults are over, exactly one leader must serve within a bounded time."
        }
        "one vote a term" => {
            "A node votes once in a term, and never forgets its vote or its term (§3.4). It took one \
             back: two candidates may both win the term."
        }
        "one write is out at a time" => {
            "The core gives out a write only when the one before is durable."
        }
        "only what is committed is applied" => {
            "A state machine applied an entry that is not committed: it may never be."
        }
        "reads are fresh" => {
            "A linearizable read must see everything that was answered to anybody before it was asked \
             (§6.4). This one was served from an older state."
        }
        "recovery is exact" => {
            "What a node finds on its disk when it starts must be what it had reported durable: no less, \
             and no more than the one write that was under way."
        }
        "snapshots keep the log short" => {
            "A snapshot is due whenever so many bytes are applied, and then the log begins after it. This \
             log holds more: a node that goes on like that fills its memory."
        }
        "term grows" => "A node's term never falls, not even across a crash (§3.3).",
        "the history" => {
            "The clients' operations cannot be put into one order that fits both their times and their \
             answers: the history is not linearizable."
        }
        "the invariant of the state machine" => {
            "What the test says must hold of the state after every command does not hold."
        }
        "the log begins after what is restored" => {
            "A snapshot may be restored only once the log on the disk begins after it: otherwise a crash \
             leaves a state and a log that do not belong together."
        }
        "the log takes no more room than it needs" => {
            "Segments whose entries a snapshot stands for are used again, or removed. The files of this log \
             are larger than what is still needed of them."
        }
        "the snapshot that the log begins after is there" => {
            "A log that begins after a snapshot is of no use without that snapshot."
        }
        "the state machine is deterministic" => {
            "The same commands in the same order must give the same answers on every node. Usually \
             something is missing from the snapshot, or apply reads a clock or a random number."
        }
        "limits are kept" => {
            "What a node sends, writes or applies at once, and what it has under way to a peer, is no more \
             than it was configured to; a single entry may always go."
        }
        "a node stops in good order" => {
            "A node that is told to stop closes its log: only then can damage found at the next start be \
             told from a write that was cut off. Its disk does what it is told, and closing failed."
        }
        "the time of the log runs no faster than a clock" => {
            "The time that entries carry runs no faster than the fastest clock, whatever a single wall \
             clock reads. Otherwise a lease ends too early."
        }
        "the time of the log runs no slower than a clock" => {
            "While no node starts anew, the time that entries carry runs no slower than the slowest \
             clock, through silence and elections. Otherwise a lease outlives its time."
        }
        "a leader whose disk is stalled steps down" => {
            "A leader whose disk does not answer, while the others commit, leaves the lead to them \
             within a few election timeouts. This one went on."
        }
        "a copy that differs is found out" => {
            "A node that has applied something else than the others is found out and repaired, as long \
             as most nodes have the right copy. This one goes on with a wrong copy."
        }
        "only a copy that differs is given up" => {
            "A node gives its copy up only if it differs from that of a quorum. The copy of this one was \
             right."
        }
        "the time of the log does not go back" => {
            "The times that leaders write into the log never fall along it."
        }
        "wait_commit is of the command that was submitted" => {
            "Whoever waits for a command by its number and its term is told of that command, or \
             that it was superseded; never of another."
        }
        "what is committed never changes" => {
            "An entry that was committed at an index is there for good, on every node (§3.2, State \
             Machine Safety). A node has committed another one."
        }
        "the fields of an answer are true" => {
            "Each field of an answer says something that another field, or another answer, says too: a \
             count, a version, whether a key was found. Here the two differ."
        }
        "every node reads the same" => {
            "When all is quiet every node answers a read with the same value and the same version."
        }
        "what is committed never changes for clients" => {
            "Two clients were told of different commands under the same number."
        }
        "what is durable is on the disk" => {
            "What the core takes for durable is not what the disk holds."
        }
        "what waits is what clients ask for" => {
            "When the faults are over, no more proposals, reads and waits are kept in a node than clients \
             wait for."
        }
        "who has lost what it acknowledged has no say" => {
            "A node that has lost entries which it had acknowledged cannot tell whose log is up to date. \
             Until a leader has given it everything again, it neither votes nor asks for votes."
        }
        "what was lost is repaired in the end" => {
            "A node that knows it has lost entries must get them back from its peers."
        }
        _ => return None,
    })
}
