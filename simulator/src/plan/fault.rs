//! The faults of a plan: what goes wrong, where, when, and for how long.
//!
//! A fault is data. How one strikes is for each layer to say: `world/faults.rs` here, and
//! `faults.rs` in `transport-sim`.

/// As the node of a fault: the node that leads when the fault strikes.
pub const LEADER: u64 = u64::MAX;

/// A fault: one thing that goes wrong at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When it strikes, in microseconds of simulated time.
    pub at_us: u64,
    /// The node, or [`LEADER`]; for [`FaultKind::Split`] a bit mask of nodes.
    pub node: u64,
    /// A duration in microseconds or another quantity: see the kind.
    pub amount: u64,
    /// The kind of fault; it defines the meaning of `node` and `amount`.
    pub kind: FaultKind,
}

impl Fault {
    /// The fault with [`LEADER`] replaced by `leader`, or by an arbitrary node if there is none.
    #[must_use]
    pub fn resolved(self, leader: Option<u64>) -> Fault {
        match self.node {
            LEADER => Fault { node: leader.unwrap_or(self.at_us), ..self },
            _ => self,
        }
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $word:literal),* $(,)?) => {
        /// The kind of a fault. `node` and `amount` are the fields of [`Fault`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum FaultKind {
            $($(#[$doc])* $variant,)*
        }

        impl FaultKind {
            /// Every kind, in the order of declaration.
            pub const ALL: &'static [FaultKind] = &[$(FaultKind::$variant),*];

            /// Whether the node loses or damages data that it once held: log, snapshots or state.
            pub fn forgets(self) -> bool {
                use FaultKind::*;
                matches!(
                    self,
                    Rot | RotEnd
                        | Misdirect
                        | LostWrite
                        | Unreadable
                        | SnapshotRot
                        | Flip
                        | Wipe
                        | RotWriting
                )
            }

            /// Whether synced data of a log or a snapshot is damaged or lost, and a part of it
            /// stays.
            pub fn damages_files(self) -> bool {
                use FaultKind::*;
                matches!(
                    self,
                    Rot | RotEnd | Misdirect | LostWrite | Unreadable | SnapshotRot | RotWriting
                )
            }

            /// Whether a leader may lose its leadership to the fault without going down.
            pub(super) fn deposes(self) -> bool {
                use FaultKind::*;
                matches!(self, Pause | Isolate | Deaf | Mute | Split)
            }

            /// Whether `amount` is a duration.
            pub(super) fn lasts(self) -> bool {
                use FaultKind::*;
                !matches!(
                    self,
                    Clock
                        | WallJump
                        | ClockBack
                        | IoError
                        | CrashAt
                        | Transfer
                        | Members
                        | Replace
                )
            }

            /// Whether it is a change of the membership. These are drawn by themselves.
            pub fn changes_members(self) -> bool {
                matches!(self, FaultKind::Members | FaultKind::Replace)
            }

            /// Whether its strikes are drawn apart from those of other kinds.
            pub(super) fn is_drawn_apart(self) -> bool {
                self.changes_members() || self == FaultKind::ClockBack
            }

            /// The word for the kind in a printed plan.
            pub fn word(self) -> &'static str {
                match self { $(FaultKind::$variant => $word,)* }
            }
        }
    };
}

kinds! {
    /// The node's power fails, and comes back after `amount` µs.
    Crash = "crash",
    /// The process ends but the power stays on: unsynced writes survive. It restarts after `amount`
    /// µs.
    Kill = "kill",
    /// The node shuts down cleanly. It restarts after `amount` µs.
    Stop = "stop",
    /// The node's power fails the next time a write is outstanding. It comes back after `amount`
    /// µs.
    CrashWriting = "crashw",
    /// The node's power fails right after the node sends its next message. It comes back after
    /// `amount` µs.
    CrashSending = "crashs",
    /// The process is suspended for `amount` µs and then continues.
    Pause = "pause",
    /// No link to or from the node carries anything for `amount` µs.
    Isolate = "isolate",
    /// The node receives no message for `amount` µs.
    Deaf = "deaf",
    /// No message that the node sends arrives for `amount` µs.
    Mute = "mute",
    /// The nodes whose bits are set are partitioned from the others for `amount` µs.
    Split = "split",
    /// Only the node connects two halves of the cluster for `amount` µs.
    Bridge = "bridge",
    /// Each node reaches only its two neighbours for `amount` µs.
    Ring = "ring",
    /// Messages to and from the node are held back for `amount` µs and then arrive together.
    Clog = "clog",
    /// The node's clock runs at `amount` per mille of simulated time from now on.
    Clock = "clock",
    /// The node's wall clock jumps by `amount` ms: forwards if that is even, backwards if it is
    /// odd.
    WallJump = "wall",
    /// The node's next sync fails and its unsynced data is discarded. The node must stop. It
    /// restarts a little later.
    SyncError = "syncerr",
    /// The node's disk is full for `amount` µs.
    Full = "full",
    /// The node's disk completes no write for `amount` µs.
    Stall = "stall",
    /// Each write of the node takes up to an election timeout longer, for `amount` µs.
    Slow = "slow",
    /// The `amount mod 32`-th operation of the node's disk from now fails; of a write, a part is
    /// done.
    IoError = "ioerr",
    /// The node's power fails within its `amount mod 32`-th disk operation from now.
    CrashAt = "crashat",
    /// The node's power fails, and a byte of its synced log is damaged.
    Rot = "rot",
    /// The node shuts down cleanly, and the end of its log is damaged when it restarts: no later
    /// write proves that the damaged one existed.
    RotEnd = "rotend",
    /// The node's power fails, and a block of its log was written over another block instead of to
    /// its own place.
    Misdirect = "misdirect",
    /// The node's power fails, and a write that was reported durable is missing: the disk still has
    /// the data from before it.
    LostWrite = "lostw",
    /// The node's power fails, and a sector of its log cannot be read any more.
    Unreadable = "unreadable",
    /// A byte of one of the node's snapshots is damaged. If `amount` is odd, the node's power fails
    /// too, for `amount` µs.
    SnapshotRot = "snaprot",
    /// The node's state machine applies a command in which a bit has flipped in memory.
    Flip = "flip",
    /// The node's disk is wiped. It comes back after `amount` µs under its old id, with a new
    /// incarnation.
    Wipe = "wipe",
    /// The leader hands leadership over to node `amount` modulo the number of nodes, or to the best
    /// one if that is the leader itself.
    Transfer = "transfer",
    /// The node's power fails within a write, and the last batch that was synced before it is
    /// damaged. It comes back after `amount` µs. Nothing is damaged unless the durable mark or a
    /// part of the write that is left proves that the batch was synced: otherwise nothing can tell
    /// such damage from a torn write.
    RotWriting = "rotw",
    /// An operator declares a membership at the leader: all members stay, and those vote whose bit
    /// of `amount` is set, of the bits below [`MEMBERS_FORCED`]. At least one votes, and three if
    /// the plan has faults that lose data.
    Members = "members",
    /// An operator removes the node from the membership, wipes its disk, and adds it again with its
    /// new incarnation.
    Replace = "replace",
    /// The node's monotonic clock goes back after `amount` µs, to what it reads now, as if its
    /// virtual machine were moved. Its wall clock does not. Layer 1 only.
    ClockBack = "back",
}

/// A bit in the amount of [`FaultKind::Members`]: the change is forced.
pub const MEMBERS_FORCED: u64 = 1 << 15;
/// A bit in the amount of [`FaultKind::Members`]: new voters have only an election timeout to catch
/// up.
pub const MEMBERS_HURRIED: u64 = 1 << 16;
