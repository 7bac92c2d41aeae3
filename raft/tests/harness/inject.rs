//! The command `inject`: a node receives a message that no node has sent.

use super::script::{Args, Result, Script, log_id};
use bytes::Bytes;
use raft::{
    Body, Entry, Incarnation, Index, LogId, LogTime, Message, NodeId, Payload, ReadId, Reading,
    Round, Term,
};

impl Script {
    pub(super) fn inject(&mut self, args: &mut Args) -> Result<()> {
        let (to, from) = (args.id()?, args.number("from")?.ok_or("from whom?")?);
        let term = args.number("term")?.unwrap_or(1);
        let incarnation = args.number("incarnation")?.unwrap_or(100 + from);
        if args.words.is_empty() {
            return Err("which message?".into());
        }
        let kind = args.words.remove(0);
        let read = |args: &mut Args| -> Result<ReadId> {
            Ok(ReadId(args.number("read")?.unwrap_or_default()))
        };
        let candidate = match args.number("candidate")? {
            Some(candidate) => Incarnation(candidate),
            None => self.cluster.peers[&to].disk.incarnation,
        };
        let body = match kind.as_str() {
            "PreVote" => Body::PreVote {
                next: Term(args.number("next")?.unwrap_or(term + 1)),
                last: args.log_id("last")?,
            },
            "PreVoteReply" => Body::PreVoteReply {
                next: Term(args.number("next")?.unwrap_or(term + 1)),
                granted: args.flag("yes"),
                candidate,
            },
            "Vote" => Body::Vote { last: args.log_id("last")?, transfer: args.flag("transfer") },
            "VoteReply" => {
                Body::VoteReply { granted: args.flag("yes"), clock: Reading::default(), candidate }
            }
            "Append" => {
                let prev = args.log_id("prev")?;
                let list = args.key("entries").unwrap_or_default();
                let ids: Vec<LogId> = list.split_whitespace().map(log_id).collect::<Result<_>>()?;
                // By default the numbers follow those of the receiver's log.
                let node = self.cluster.peers[&to].node.as_ref();
                let before = node.and_then(|node| node.entry(prev.index));
                let follows = before.map_or(0, |entry| entry.number_after().0);
                let first = args.number("number")?.unwrap_or(follows);
                let entry = |(at, id)| Entry {
                    id,
                    time: LogTime(0),
                    number: raft::CommandNumber(first.wrapping_add(at)),
                    payload: Payload::Command(Bytes::from_static(b"junk")),
                };
                Body::Append {
                    prev,
                    entries: (0..).zip(ids).map(entry).collect(),
                    commit: Index(args.number("commit")?.unwrap_or_default()),
                    round: Round(args.number("round")?.unwrap_or_default()),
                    time: LogTime(args.number("time")?.unwrap_or_default()),
                }
            }
            "Appended" => Body::Appended {
                matched: Index(args.number("matched")?.unwrap_or_default()),
                round: Round(args.number("round")?.unwrap_or_default()),
                state: None,
                priority: args.number("priority")?.unwrap_or_default() as u8,
                promise_ms: args.number("promise_ms")?.unwrap_or_default() as u32,
            },
            "Rejected" => Body::Rejected {
                prev: Index(args.number("prev")?.unwrap_or_default()),
                hint: args.log_id("hint")?,
                lost: args.flag("lost"),
                round: Round(args.number("round")?.unwrap_or_default()),
            },
            "ReadIndex" => Body::ReadIndex { read: read(args)?, lease: args.flag("lease") },
            "ReadIndexReply" => {
                Body::ReadIndexReply { read: read(args)?, index: args.number("index")?.map(Index) }
            }
            "TimeoutNow" => Body::TimeoutNow,
            "NotAMember" => Body::NotAMember {
                commit: Index(args.number("commit")?.unwrap_or_default()),
                refused: Incarnation(args.number("refused")?.unwrap_or_default()),
            },
            _ => return Err("there is no such message".into()),
        };
        let (from, to, term) = (NodeId(from), NodeId(to), Term(term));
        self.cluster.step(Message { from, to, term, incarnation: Incarnation(incarnation), body });
        Ok(())
    }
}
