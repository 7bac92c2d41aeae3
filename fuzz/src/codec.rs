//! Fuzzes the decoding of peers' frames and messages: bytes arrive in pieces, as from a socket.

use crate::Input;
use raft::{Message, SnapshotOffer};
use storage::codec::decode;
use transport_http::wire::{FIRST_BYTES_MAX, FRAME_BYTES_MAX, FrameDecoder, Hello, write_message};

/// The most bytes that a decoder may keep.
const KEPT_BYTES_MAX: usize = 4 << 20;

/// The first byte of `data` sets the size of the pieces in which the rest arrives.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let piece = 1 + usize::from(input.byte());
    let rest = input.bytes(data.len());
    let mut decoder = FrameDecoder::default();
    let mut first = true;
    'pieces: for bytes in rest.chunks(piece) {
        decoder.push(bytes);
        loop {
            let taken = match first {
                true => decoder.take_first(FIRST_BYTES_MAX),
                false => decoder.take(FRAME_BYTES_MAX),
            };
            match taken {
                Ok(Some(frame)) => {
                    first = false;
                    look(&frame);
                }
                Ok(None) => break,
                Err(_) => break 'pieces,
            }
        }
        assert!(
            decoder.len() <= rest.len().min(KEPT_BYTES_MAX),
            "a decoder keeps what it was given"
        );
    }
    // Decodes the bytes without the frame's checksums, too, which random bytes do not pass.
    look(rest);
}

fn look(bytes: &[u8]) {
    let own = Hello {
        cluster: storage::ClusterId(1),
        from: raft::NodeId(1),
        incarnation: raft::Incarnation(1),
        to: raft::NodeId(2),
        address: String::new(),
        election_timeout_ms: 0,
        heartbeat_ms: 0,
        process: 0,
    };
    let _ = Hello::check(bytes, &own);
    let _ = decode::<SnapshotOffer>(bytes);
    if let Ok(message) = decode::<Message>(bytes) {
        let mut encoded = Vec::new();
        write_message(&mut encoded, &message);
        assert!(!encoded.is_empty());
    }
}
