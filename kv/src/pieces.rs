//! JSON that is written piece by piece. A long text stays unescaped, in memory shared with the
//! store, until it is sent: escaping can make it six times as long.

use bytes::Bytes;
use std::collections::VecDeque;

/// A text up to this length is escaped at once. A longer one is escaped when it is written.
const SHORT_BYTES: usize = 256;
/// The most bytes of a text that are escaped in one step.
const STEP_BYTES: usize = 16 << 10;

/// JSON that is yet to be written.
#[derive(Debug, Default)]
pub struct Pieces {
    pieces: VecDeque<Piece>,
    /// The length of the pieces that have not been written. Long texts count unescaped.
    bytes: usize,
}

#[derive(Debug)]
enum Piece {
    /// Finished JSON, which is copied unchanged.
    Json(Vec<u8>),
    /// The content of a string, without the quotes. `at` is the start of the part that is not yet
    /// written.
    Text { bytes: Bytes, at: usize },
}

impl Pieces {
    /// The number of bytes that are yet to be written. Texts count unescaped.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds JSON text unchanged.
    pub fn json(&mut self, json: &str) {
        self.bytes += json.len();
        self.end().extend_from_slice(json.as_bytes());
    }

    /// Adds a string. Invalid UTF-8 becomes replacement characters.
    pub fn text(&mut self, bytes: &Bytes) {
        self.bytes += bytes.len() + 2;
        if bytes.len() <= SHORT_BYTES {
            let end = self.end();
            end.push(b'"');
            escape(bytes, true, end);
            end.push(b'"');
            return;
        }
        self.end().push(b'"');
        self.pieces.push_back(Piece::Text { bytes: bytes.clone(), at: 0 });
        self.end().push(b'"');
    }

    /// Adds a string, or null.
    pub fn text_or_null(&mut self, bytes: Option<&Bytes>) {
        match bytes {
            Some(bytes) => self.text(bytes),
            None => self.json("null"),
        }
    }

    fn end(&mut self) -> &mut Vec<u8> {
        if !matches!(self.pieces.back(), Some(Piece::Json(_))) {
            self.pieces.push_back(Piece::Json(Vec::new()));
        }
        match self.pieces.back_mut() {
            Some(Piece::Json(json)) => json,
            _ => unreachable!("it has just been seen to"),
        }
    }

    /// Appends to `into` until it has at least `until_bytes` bytes, or nothing is left.
    pub fn write(&mut self, into: &mut Vec<u8>, until_bytes: usize) {
        while into.len() < until_bytes {
            let Some(piece) = self.pieces.front_mut() else {
                self.bytes = 0;
                return;
            };
            match piece {
                Piece::Json(json) => {
                    self.bytes = self.bytes.saturating_sub(json.len());
                    into.append(json);
                    self.pieces.pop_front();
                }
                Piece::Text { bytes, at } => {
                    let end = bytes.len().min(*at + STEP_BYTES);
                    let written = escape(&bytes[*at..end], end == bytes.len(), into);
                    self.bytes = self.bytes.saturating_sub(written);
                    *at += written;
                    if *at == bytes.len() {
                        self.pieces.pop_front();
                    }
                }
            }
        }
    }
}

/// Appends the content of a JSON string, without quotes. Returns how many of `bytes` it has
/// consumed. Unless `is_end`, an incomplete character at the end of `bytes` is left for the next
/// call.
fn escape(bytes: &[u8], is_end: bool, into: &mut Vec<u8>) -> usize {
    let mut taken = 0;
    for chunk in bytes.utf8_chunks() {
        escape_text(chunk.valid(), into);
        taken += chunk.valid().len();
        let invalid = chunk.invalid();
        let is_cut_off = taken + invalid.len() == bytes.len()
            && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
        if is_cut_off && !is_end {
            return taken;
        }
        if !invalid.is_empty() {
            into.extend_from_slice("\u{fffd}".as_bytes());
            taken += invalid.len();
        }
    }
    taken
}

fn escape_text(text: &str, into: &mut Vec<u8>) {
    let start = into.len();
    serde_json::to_writer(&mut *into, text).expect("a text has a JSON form, and memory takes it");
    // Remove the quotes that serde_json writes.
    into.pop();
    into.copy_within(start + 1.., start);
    into.pop();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(text: &Bytes, step: usize) -> String {
        let (mut pieces, mut all) = (Pieces::default(), Vec::new());
        pieces.json("[");
        pieces.text(text);
        pieces.json("]");
        loop {
            let mut part = Vec::new();
            pieces.write(&mut part, step);
            if part.is_empty() {
                assert_eq!(pieces.bytes(), 0);
                break;
            }
            all.extend(part);
        }
        String::from_utf8(all).unwrap()
    }

    proptest! {
        #[test]
        fn a_text_is_written_as_if_at_once(
            parts in proptest::collection::vec("[a-z\u{0}\"é€😀]{0,9000}", 0..4),
            cut in proptest::collection::vec(any::<u8>(), 0..9),
            step in 1_usize..100_000,
        ) {
            let mut bytes = parts.concat().into_bytes();
            bytes.splice(bytes.len() / 2..bytes.len() / 2, cut.clone());
            bytes.extend(cut);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let expected = serde_json::to_string(&[text]).unwrap();
            prop_assert_eq!(written(&bytes.into(), step), expected);
        }
    }
}
