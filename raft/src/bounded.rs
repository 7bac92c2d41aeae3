//! Collections that are decoded with a limit on their length.
//!
//! An element can take many more bytes in memory than on the wire. So the limit on the bytes of a
//! message does not limit the memory that decoding it takes.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

/// The most entries in one message. A leader sends no more at once.
pub(crate) const ENTRIES_MAX: usize = 1 << 16;
/// The most members of a cluster, learners and those that a change removes included. A transport
/// has to keep a connection to each.
pub const CLUSTER_MEMBERS_MAX: usize = 64;
/// The most items of a set or map that arrives, as of the nodes that were removed.
pub(crate) const MEMBERS_MAX: usize = 1 << 10;

pub(crate) fn entries<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Vec<T>, D::Error> {
    from.deserialize_seq(Limited { max: ENTRIES_MAX, of: PhantomData })
}

pub(crate) fn set<'de, D: Deserializer<'de>, T: Deserialize<'de> + Ord>(
    from: D,
) -> Result<BTreeSet<T>, D::Error> {
    let all = from.deserialize_seq(Limited { max: MEMBERS_MAX, of: PhantomData })?;
    Ok(all.into_iter().collect())
}

pub(crate) fn map<'de, D, K, V>(from: D) -> Result<BTreeMap<K, V>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord,
    V: Deserialize<'de>,
{
    from.deserialize_map(LimitedMap(PhantomData))
}

/// A set, or nothing.
pub(crate) fn optional_set<'de, D: Deserializer<'de>, T: Deserialize<'de> + Ord>(
    from: D,
) -> Result<Option<BTreeSet<T>>, D::Error> {
    Ok(Option::<Set<T>>::deserialize(from)?.map(|set| set.0))
}

#[derive(serde::Deserialize)]
#[serde(transparent, bound = "T: Deserialize<'de> + Ord")]
struct Set<T>(#[serde(deserialize_with = "set")] BTreeSet<T>);

struct Limited<T> {
    max: usize,
    of: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Limited<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {} elements", self.max)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        // The announced length may be a lie: a vector grows as elements arrive.
        let mut all = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(64));
        while let Some(element) = seq.next_element()? {
            if all.len() == self.max {
                return Err(A::Error::invalid_length(self.max + 1, &self));
            }
            all.push(element);
        }
        Ok(all)
    }
}

struct LimitedMap<K, V>(PhantomData<(K, V)>);

impl<'de, K: Deserialize<'de> + Ord, V: Deserialize<'de>> Visitor<'de> for LimitedMap<K, V> {
    type Value = BTreeMap<K, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MEMBERS_MAX} members")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut all = BTreeMap::new();
        while let Some((key, value)) = map.next_entry()? {
            if all.len() == MEMBERS_MAX {
                return Err(A::Error::invalid_length(MEMBERS_MAX + 1, &self));
            }
            // No map has a key twice. A list of one key would take time without an end.
            if all.insert(key, value).is_some() {
                return Err(A::Error::custom("a key of a map is there twice"));
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::value::{Error, MapDeserializer, SeqDeserializer};

    #[test]
    fn what_is_decoded_ends_at_its_limit_even_if_it_repeats_itself() {
        let pairs = |len: u64, kinds: u64| {
            let read = std::cell::Cell::new(0);
            let all = (0..len).map(|at| (at % kinds, at)).inspect(|_| read.set(read.get() + 1));
            let map = map::<_, u64, u64>(MapDeserializer::<_, Error>::new(all));
            (map.map(|map| map.len()).ok(), read.get())
        };
        let max = MEMBERS_MAX as u64;
        assert_eq!(pairs(max, max), (Some(MEMBERS_MAX), max));
        assert_eq!(pairs(1 << 20, 1 << 20), (None, max + 1));
        assert_eq!(pairs(1 << 20, 3), (None, 4));
        let numbers = |len: u64| {
            set::<_, u64>(SeqDeserializer::<_, Error>::new((0..len).map(|at| at % 3))).is_ok()
        };
        assert!(numbers(max) && !numbers(max + 1));
    }
}
