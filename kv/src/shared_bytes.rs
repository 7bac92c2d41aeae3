//! The bytes of keys and values that the store holds.
//!
//! Each is one allocation, which also has the number of its owners. `Bytes` takes a second one for
//! that number, as soon as there are two owners; and a map that shares structure clones all
//! elements of a node when it copies the node. The bytes are always a copy: they keep no request,
//! batch or network frame in memory.

use bytes::Bytes;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Bytes with any number of owners.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SharedBytes(Arc<[u8]>);

impl SharedBytes {
    /// The same memory as `Bytes`.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl From<&[u8]> for SharedBytes {
    fn from(bytes: &[u8]) -> Self {
        SharedBytes(bytes.into())
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for SharedBytes {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// As the codec encodes any bytes.
impl Serialize for SharedBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self)
    }
}

impl<'de> Deserialize<'de> for SharedBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(Copying)
    }
}

struct Copying;

impl Visitor<'_> for Copying {
    type Value = SharedBytes;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<SharedBytes, E> {
        Ok(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::codec;

    #[test]
    fn it_is_encoded_as_bytes_are() {
        for bytes in [&b""[..], b"key", &[0xff; 300]] {
            let (mut shared, mut plain) = (Vec::new(), Vec::new());
            codec::encode(&SharedBytes::from(bytes), &mut shared);
            codec::encode(&Bytes::copy_from_slice(bytes), &mut plain);
            assert_eq!(shared, plain);
            let decoded: SharedBytes = codec::decode(&shared).expect("it has just been encoded");
            assert_eq!(&decoded[..], bytes);
        }
    }
}
