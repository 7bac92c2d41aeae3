//! The values that clients write. Each is written once, and is identified by the number at its
//! start.
//!
//! The bytes after the number depend only on the number, so that a reader can check that a value is
//! whole. Some values are longer than a segment of the log, a few have megabytes, and some are not
//! UTF-8. Those can be written only through v1, and the other API shows them with replacement
//! characters.

use simulator::checks::{Check, Violation, violation};

/// Size of the largest value: the limit in these plans.
pub const LARGE_BYTES_MAX: usize = 4 << 20;
/// Size of the smallest large value.
const LARGE_BYTES_MIN: usize = 1 << 20;
/// The number of the first large value, the distance between two, and their count. There are few,
/// since all nodes keep them.
const LARGE_FIRST: u64 = 20;
const LARGE_EVERY: u64 = 61;
const LARGE_COUNT: u64 = 3;
/// One value in this many is not UTF-8.
const BINARY_EVERY: u64 = 13;
/// The end of a value that is not UTF-8: an invalid byte, an incomplete sequence, a zero.
const BINARY: &[u8] = b"\xff\xc3(\0";

/// The values that clients write in a run.
#[derive(Clone, Copy, Debug)]
pub struct Values {
    /// The most bytes of padding in a value.
    pub padding: u64,
    /// Whether some values have megabytes.
    pub large: bool,
}

impl Values {
    /// Whether the value is not UTF-8.
    pub fn is_binary(self, value: u64) -> bool {
        value.is_multiple_of(BINARY_EVERY)
    }

    /// Whether the value has megabytes.
    pub fn is_large(self, value: u64) -> bool {
        let from_first = value.wrapping_sub(LARGE_FIRST);
        self.large
            && from_first.is_multiple_of(LARGE_EVERY)
            && from_first / LARGE_EVERY < LARGE_COUNT
    }

    /// Size of the largest value of the run, or a little more.
    pub fn bytes_max(self) -> usize {
        match self.large {
            true => LARGE_BYTES_MAX,
            false => self.padding as usize,
        }
    }

    /// The bytes of a value.
    pub fn bytes(self, value: u64) -> Vec<u8> {
        let mut bytes = value.to_string().into_bytes();
        let padding = value.wrapping_mul(7_919) % (self.padding + 1);
        bytes.resize(bytes.len() + padding as usize, b'x');
        if self.is_large(value) {
            let span = (LARGE_BYTES_MAX - LARGE_BYTES_MIN) as u64;
            let beyond = value.wrapping_mul(1_048_583) % span;
            let is_first = value == LARGE_FIRST;
            let len = if is_first { LARGE_BYTES_MAX } else { LARGE_BYTES_MIN + beyond as usize };
            bytes.resize(len, b'x');
        }
        if self.is_binary(value) {
            let from = bytes.len() - BINARY.len().min(bytes.len());
            match self.is_large(value) {
                true => bytes[from..].copy_from_slice(BINARY),
                false => bytes.extend_from_slice(BINARY),
            }
        }
        bytes
    }

    /// The value as an API without bytes shows it.
    pub fn text(self, value: u64) -> String {
        String::from_utf8_lossy(&self.bytes(value)).into_owned()
    }

    /// Parses a value that was read as bytes, and checks that it is whole.
    pub fn read(self, bytes: &[u8]) -> Result<u64, Violation> {
        let value = number(bytes);
        match self.bytes(value) == bytes {
            true => Ok(value),
            false => broken(value, bytes, &self.bytes(value)),
        }
    }

    /// Parses a value that was read as text, and checks that it is whole.
    pub fn read_text(self, text: &str) -> Result<u64, Violation> {
        let value = number(text.as_bytes());
        match self.text(value) == text {
            true => Ok(value),
            false => broken(value, text.as_bytes(), self.text(value).as_bytes()),
        }
    }
}

fn broken(value: u64, read: &[u8], written: &[u8]) -> Result<u64, Violation> {
    let same = read.iter().zip(written).take_while(|(a, b)| a == b).count();
    let (read, written) = (read.len(), written.len());
    let detail = format!("value {value}: {read} bytes of {written}, the same up to {same}");
    violation(Check::ValueIsReadAsItWasWritten, (), detail)
}

/// The number that a value begins with.
pub fn number(value: &[u8]) -> u64 {
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit());
    digits
        .fold(0, |number: u64, digit| number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_known_by_its_bytes_and_a_change_of_them_is_noticed() {
        let values = Values { padding: 30, large: true };
        for value in 1..=200 {
            let bytes = values.bytes(value);
            assert!(bytes.len() <= LARGE_BYTES_MAX);
            assert_eq!(values.read(&bytes), Ok(value));
            assert_eq!(values.read_text(&values.text(value)), Ok(value));
            assert_eq!(std::str::from_utf8(&bytes).is_err(), values.is_binary(value));
            assert_eq!(bytes.len() >= LARGE_BYTES_MIN, values.is_large(value));
            assert!(values.read(&bytes[..bytes.len() - 1]).is_err());
        }
        assert_eq!((1..=200).filter(|value| values.is_large(*value)).count() as u64, LARGE_COUNT);
        assert_eq!(values.bytes(LARGE_FIRST).len(), LARGE_BYTES_MAX);
    }
}
