//! The messages between peers, and how a node takes them in: all of the transport that does not
//! depend on what carries the bytes. A simulation carries them in its own way and runs this code.

pub use crate::frame::{
    FIRST_BYTES_MAX, FRAME_BYTES_MAX, FrameDecoder, FrameError, Frames, HEAD_BYTES, write_first,
    write_frame, write_message, write_sign_of_life,
};
pub use crate::hello::{Hello, Refusal};
pub use crate::transfer::{ChunkWriter, Offload, Refused, receive_snapshot, write_offer};

use driver::Inbox;
use raft::NodeId;

/// Why a stream of messages ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ended {
    /// The peer closed it.
    #[error("closed by the peer")]
    Closed,
    /// The bytes are no frames.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame is no message.
    #[error("not a message: {0}")]
    Malformed(storage::codec::DecodeError),
    /// A message of another node than the stream's.
    #[error("a message of node {0} on it")]
    Foreign(NodeId),
    /// This node takes no more messages.
    #[error("this node is stopping")]
    Stopping,
}

/// Hands a peer's messages to the node, until the stream ends. Returns why it ended. `passes` tells
/// whether the link to a peer is open at the moment.
pub async fn receive_messages(
    inbox: &Inbox,
    hello: Hello,
    frames: &mut impl Frames,
    passes: impl Fn(NodeId) -> bool,
) -> Ended {
    loop {
        let frame = match frames.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ended::Closed,
            Err(error) => return error.into(),
        };
        if frame.is_empty() {
            continue;
        }
        let message: raft::Message = match storage::codec::decode(&frame) {
            Ok(message) => message,
            Err(error) => return Ended::Malformed(error),
        };
        if message.from != hello.from {
            return Ended::Foreign(message.from);
        }
        if passes(message.from) && !inbox.message(message).await {
            return Ended::Stopping;
        }
    }
}
