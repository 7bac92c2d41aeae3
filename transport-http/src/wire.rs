//! The wire protocol between peers: frames, messages, and how a node receives them. It does not
//! depend on the connection that carries the bytes. A simulation has connections of its own and
//! runs this code.

pub use crate::frame::{
    FIRST_BYTES_MAX, FRAME_BYTES_MAX, FrameDecoder, FrameError, Frames, HEAD_BYTES,
    OFFER_BYTES_MAX, write_first, write_frame, write_message, write_sign_of_life,
};
pub use crate::hello::{Hello, Refusal};
pub use crate::transfer::{
    ChunkWriter, Offload, Refused, answer_question, read_answer, receive_snapshot, write_offer,
    write_question,
};

use driver::Inbox;
use raft::NodeId;

/// Why a stream of messages ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamEnded {
    /// The peer closed it.
    #[error("closed by the peer")]
    Closed,
    /// Reading a frame failed.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The content of a frame is not a message.
    #[error("not a message: {0}")]
    Malformed(storage::codec::DecodeError),
    /// A message whose sender is not the node that the stream's hello names.
    #[error("a message of node {0} on it")]
    Foreign(NodeId),
    /// This node is stopping.
    #[error("this node is stopping")]
    Stopping,
}

/// Delivers a peer's messages to `inbox` until the stream ends, and returns why it ended. Messages
/// are dropped while `passes` returns false for the peer.
pub async fn receive_messages(
    inbox: &Inbox,
    hello: Hello,
    frames: &mut impl Frames,
    passes: impl Fn(NodeId) -> bool,
) -> StreamEnded {
    loop {
        let frame = match frames.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return StreamEnded::Closed,
            Err(error) => return error.into(),
        };
        if frame.is_empty() {
            continue;
        }
        let message = match frames.message(frame).await {
            Ok(message) => message,
            Err(error) => return StreamEnded::Malformed(error),
        };
        if message.from != hello.from {
            return StreamEnded::Foreign(message.from);
        }
        if passes(message.from) && !inbox.message(message).await {
            return StreamEnded::Stopping;
        }
    }
}
