//! The encoding of values, between nodes and in small records on disk.
//!
//! Only this file uses the encoder, bincode 2.0.1, whose development has ended (RUSTSEC-2025-0141).
//! It can be replaced here without a change elsewhere. Code that stores or sends the output of
//! [`encode`] must add [`VERSION`], and reject another version.
//!
//! A payload costs one copy when a message is decoded: out of the frame into a `Vec` of its exact
//! length, which becomes its `Bytes` without another. (The log's own format does not use this file
//! for payloads.) A slice of the frame would spare that copy, and is not possible
//! here: serde's visitors take borrowed slices or a `Vec`, so no decoder can hand a `Bytes` to one.
//! It would take either a channel past serde, from here into the core's types, or a format of our
//! own for appends. Each slice would also keep its whole frame in memory for as long as the log has
//! one entry of it, and the limits in bytes count payloads.
//!
//! Decoding does not trust its input: it allocates at most [`DECODED_BYTES_MAX`], whatever the
//! input claims, and left-over bytes are an error.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of the encoding. Raise it whenever the same value is encoded differently.
pub const VERSION: u8 = 5;

/// The most bytes that decoding one value may allocate. A number counts with its size in memory,
/// not with its encoded one: a `u64` of one encoded byte counts as 8.
pub const DECODED_BYTES_MAX: usize = 256 << 20;

/// The bytes that [`decode_sparingly`] may allocate beyond the length of its input, at least. The
/// entries of an append take up to three times their encoded size.
const SPARE_BYTES: usize = 16 << 20;

const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<DECODED_BYTES_MAX>,
> = bincode::config::standard().with_limit::<DECODED_BYTES_MAX>();

/// Why bytes could not be decoded. The sender or the disk is at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes do not encode a value of the requested type.
    #[error("cannot be decoded: {0}")]
    Malformed(String),
    /// The value is followed by more bytes.
    #[error("{0} bytes left over after the value")]
    LeftOver(usize),
}

/// Appends the encoding of `value` to `into`.
///
/// # Panics
///
/// If the type cannot be encoded (a sequence or map of unknown length): a bug of the caller. No
/// type of this workspace is of that kind.
pub fn encode<T: Serialize + ?Sized>(value: &T, into: &mut Vec<u8>) {
    try_encode(value, into)
        .expect("writing into memory does not fail, and the type can be encoded");
}

/// Like [`encode`], for a type that may be one that cannot be encoded. After an error, `into` may
/// have a part of it.
pub fn try_encode<T: Serialize + ?Sized>(value: &T, into: &mut Vec<u8>) -> Result<(), EncodeError> {
    let encoded = bincode::serde::encode_into_std_write(value, into, CONFIG);
    encoded.map(drop).map_err(|error| EncodeError(error.to_string()))
}

/// Why a value could not be encoded: its type is of a kind that the codec does not support.
#[derive(Debug, thiserror::Error)]
#[error("cannot be encoded: {0}")]
pub struct EncodeError(String);

/// Decodes a value from all of `bytes`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    decode_within::<T, DECODED_BYTES_MAX>(bytes)
}

/// Like [`decode`], for input that nobody vouches for: it allocates at most 20, 32, 64 or 96 MiB,
/// the least of these that is 16 MiB more than the input has. Many small values, such as the
/// members of thousands of memberships, could otherwise take 30 times the memory of the input.
pub fn decode_sparingly<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    const MIB: usize = 1 << 20;
    // The limit is a part of the decoder's type.
    match (bytes.len() + SPARE_BYTES).div_ceil(MIB) {
        0..=20 => decode_within::<T, { 20 * MIB }>(bytes),
        21..=32 => decode_within::<T, { 32 * MIB }>(bytes),
        33..=64 => decode_within::<T, { 64 * MIB }>(bytes),
        _ => decode_within::<T, { 96 * MIB }>(bytes),
    }
}

fn decode_within<T: DeserializeOwned, const LIMIT: usize>(bytes: &[u8]) -> Result<T, DecodeError> {
    let config = bincode::config::standard().with_limit::<LIMIT>();
    let (value, read) = bincode::serde::decode_from_slice(bytes, config)
        .map_err(|error| DecodeError::Malformed(error.to_string()))?;
    if read < bytes.len() {
        return Err(DecodeError::LeftOver(bytes.len() - read));
    }
    Ok(value)
}

/// Like [`decode`], for a value that may borrow from `bytes`.
pub fn decode_borrowed<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, DecodeError> {
    let (value, read) = bincode::serde::borrow_decode_from_slice(bytes, CONFIG)
        .map_err(|error| DecodeError::Malformed(error.to_string()))?;
    if read < bytes.len() {
        return Err(DecodeError::LeftOver(bytes.len() - read));
    }
    Ok(value)
}

/// Decodes a value from all of `bytes`, without a limit on what it allocates. Only for input that a
/// checksum has proved to be a value of this type that [`encode`] has written, such as a snapshot:
/// the limit of [`decode`] counts numbers with their size in memory, so a large value that was
/// encoded could not be decoded again.
pub fn decode_unlimited<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (value, read) = bincode::serde::decode_from_slice(bytes, bincode::config::standard())
        .map_err(|error| DecodeError::Malformed(error.to_string()))?;
    if read < bytes.len() {
        return Err(DecodeError::LeftOver(bytes.len() - read));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::{Entry, Incarnation, Index, LogId, Member, Membership, NodeId, Payload, Snapshot};

    fn entry() -> Entry {
        Entry {
            id: LogId::new(7, 4),
            time: raft::LogTime(1_700_000_000_000),
            number: raft::CommandNumber(5),
            payload: Payload::Command(bytes::Bytes::from_static(b"x=1")),
        }
    }

    fn snapshot() -> Snapshot {
        let member = Member {
            incarnation: Incarnation(3),
            peer_address: "p:1".to_owned(),
            client_address: "c:2".to_owned(),
        };
        Snapshot {
            last: LogId::new(9, 4),
            time: raft::LogTime(1_000),
            number: raft::CommandNumber(6),
            membership: Box::new(Membership::of_voters([(NodeId(7), member)].into())),
            membership_index: Index(8),
            hash: Some(2),
        }
    }

    #[test]
    fn a_value_comes_back_as_it_went() {
        let mut bytes = Vec::new();
        encode(&entry(), &mut bytes);
        assert_eq!(decode::<Entry>(&bytes).unwrap(), entry());
    }

    #[test]
    fn the_bytes_of_a_value_are_fixed() {
        // If this fails, nodes of two versions cannot communicate: raise VERSION.
        let mut bytes = Vec::new();
        encode(&entry(), &mut bytes);
        assert_eq!(bytes, b"\x04\x07\xfd\x00\x68\xe5\xcf\x8b\x01\x00\x00\x05\x01\x03x=1");
        let mut bytes = Vec::new();
        encode(&snapshot(), &mut bytes);
        let golden =
            b"\x04\x09\xfb\xe8\x03\x06\x01\x07\x03\x03p:1\x03c:2\x01\x07\0\0\0\x08\x01\x02";
        assert_eq!(bytes, golden);
    }

    #[test]
    fn cut_and_extended_bytes_are_refused() {
        let mut bytes = Vec::new();
        encode(&entry(), &mut bytes);
        for len in 0..bytes.len() {
            assert!(decode::<Entry>(&bytes[..len]).is_err());
        }
        bytes.push(0);
        assert!(matches!(decode::<Entry>(&bytes), Err(DecodeError::LeftOver(1))));
    }

    #[test]
    fn a_value_above_the_limit_comes_back_where_there_is_none() {
        let numbers = vec![7_u64; DECODED_BYTES_MAX / 8 + 1];
        let mut bytes = Vec::new();
        encode(&numbers, &mut bytes);
        assert!(decode::<Vec<u64>>(&bytes).is_err());
        assert!(decode_unlimited::<Vec<u64>>(&bytes).unwrap() == numbers);
    }

    #[test]
    fn sparing_limits_grow_with_the_input() {
        let encoded = |numbers: &Vec<u64>| {
            let mut bytes = Vec::new();
            encode(numbers, &mut bytes);
            bytes
        };
        // One byte each in the input, eight in memory.
        for (count, is_decoded) in [(2 << 20, true), (3 << 20, false), (60 << 20, false)] {
            let bytes = encoded(&vec![7; count]);
            assert_eq!(decode_sparingly::<Vec<u64>>(&bytes).is_ok(), is_decoded, "{count}");
        }
        let mut bytes = Vec::new();
        encode(&vec![7_u8; 64 << 20], &mut bytes);
        assert!(decode_sparingly::<bytes::Bytes>(&bytes).is_ok(), "a large command");
    }

    #[test]
    fn a_claimed_length_is_not_believed() {
        // It claims to be a string of 2^62 bytes.
        let bytes = [253, 0, 0, 0, 0, 0, 0, 0, 0x40, b'x'];
        assert!(decode::<String>(&bytes).is_err());
        assert!(decode::<Vec<u64>>(&bytes).is_err());
    }
}
