//! What is said between peers, and how it is taken in: all of the transport that does not depend on
//! what carries the bytes. A simulation carries them otherwise and runs this very code.

pub use crate::frame::{
    FIRST_BYTES_MAX, FRAME_BYTES_MAX, FrameDecoder, FrameError, Frames, SIGN_OF_LIFE, write_frame,
    write_message,
};
pub use crate::hello::{Hello, Refusal};
pub use crate::transfer::{Offload, Refused, receive_snapshot, write_chunk, write_offer};

use driver::Inbox;
use raft::NodeId;

/// Hands a peer's messages to the node, until the stream ends. Returns why it ended. `passes` tells
/// whether messages of a peer are heard at the moment.
pub async fn receive_messages(
    inbox: &Inbox,
    hello: Hello,
    frames: &mut impl Frames,
    passes: impl Fn(NodeId) -> bool,
) -> String {
    loop {
        let frame = match frames.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return "closed by the peer".to_owned(),
            Err(error) => return error.to_string(),
        };
        if frame.is_empty() {
            continue;
        }
        let message: raft::Message = match storage::codec::decode(&frame) {
            Ok(message) => message,
            Err(error) => return error.to_string(),
        };
        if message.from != hello.from {
            return format!("a message of node {} on it", message.from);
        }
        if passes(message.from) && !inbox.message(message).await {
            return "this node is stopping".to_owned();
        }
    }
}
