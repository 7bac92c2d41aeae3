//! Parses the JSON of a batch. Limits are checked during parsing, so an oversized batch is not
//! parsed to its end.

use super::problem::Problem;
use crate::limits::Limits;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
/// An operation as the client sent it.
pub struct AskedOperation<'a> {
    pub op: Kind,
    #[serde(borrow)]
    pub key: Text<'a>,
    #[serde(borrow)]
    pub value: Option<Text<'a>>,
    pub if_match: Option<Tag>,
    pub if_none_match: Option<Tag>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
/// The kind of an operation.
pub enum Kind {
    Put,
    Delete,
}

/// A text of the body: a part of it, unless it has escapes. The codec encodes it as bytes.
pub struct Text<'a>(Cow<'a, str>);

impl Text<'_> {
    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl AsRef<[u8]> for Text<'_> {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.as_ref())
    }
}

// Written by hand: derived code for an optional `Cow` copies.
impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_str(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }
}

/// A condition: a version, or `*`.
pub enum Tag {
    Version(u64),
    Any,
}

// Written by hand: derived code for an untagged enum would first keep the whole value in memory.
impl<'de> Deserialize<'de> for Tag {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(TagVisitor)
    }
}

struct TagVisitor;

impl Visitor<'_> for TagVisitor {
    type Value = Tag;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"*\" or one version, such as 7")
    }

    fn visit_u64<E: Error>(self, version: u64) -> Result<Tag, E> {
        Ok(Tag::Version(version))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Tag, E> {
        match text {
            "*" => Ok(Tag::Any),
            other => Err(E::invalid_value(Unexpected::Str(other), &self)),
        }
    }
}

/// A value that has to be a JSON object. Derived code would also accept an array of the fields in
/// order, which the API does not document.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_map(ObjectVisitor(PhantomData)).map(Object)
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

/// Parses the operations of a batch.
pub fn parse<'a>(body: &'a [u8], limits: &Limits) -> Result<Vec<AskedOperation<'a>>, Problem> {
    let too_large = RefCell::new(None);
    let mut json = serde_json::Deserializer::from_slice(body);
    let parsed = Whole { limits, too_large: &too_large }
        .deserialize(&mut json)
        .and_then(|operations| json.end().map(|()| operations));
    parsed.map_err(|error| match too_large.take() {
        Some(detail) => Problem::too_large(detail),
        None => Problem::malformed(error.to_string()),
    })
}

/// The JSON object that contains the list of operations.
#[derive(Clone, Copy)]
struct Whole<'a> {
    limits: &'a Limits,
    /// The reason, if parsing stopped at a limit.
    too_large: &'a RefCell<Option<String>>,
}

impl<'de> DeserializeSeed<'de> for Whole<'_> {
    type Value = Vec<AskedOperation<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Whole<'_> {
    type Value = Vec<AskedOperation<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a list of operations")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut operations = None;
        while let Some(field) = map.next_key::<Field>()? {
            let Field::Operations = field;
            if operations.is_some() {
                return Err(A::Error::duplicate_field("operations"));
            }
            operations = Some(map.next_value_seed(List(self))?);
        }
        operations.ok_or_else(|| A::Error::missing_field("operations"))
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Field {
    Operations,
}

struct List<'a>(Whole<'a>);

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = Vec<AskedOperation<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = Vec<AskedOperation<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of operations")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let Whole { limits, too_large } = self.0;
        let give_up = |detail: String| {
            *too_large.borrow_mut() = Some(detail);
            A::Error::custom("too large")
        };
        let (mut operations, mut bytes) = (Vec::new(), 0);
        while let Some(Object(operation)) = list.next_element::<Object<AskedOperation<'de>>>()? {
            if operations.len() == limits.batch_operations_max {
                let max = limits.batch_operations_max;
                let detail = format!("the batch has more than {max} operations, which is the most");
                return Err(give_up(detail));
            }
            bytes += operation.key.len() + operation.value.as_ref().map_or(0, Text::len);
            if bytes > limits.batch_bytes_max {
                let max = limits.batch_bytes_max;
                let detail = format!("the batch has more than {max} bytes of keys and values");
                return Err(give_up(detail));
            }
            operations.push(operation);
        }
        Ok(operations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_a_version_or_a_star() {
        let parse = |tag: &str| {
            let operation = format!(r#"{{"op":"delete","key":"a","if_match":{tag}}}"#);
            let body = format!("{{\"operations\":[{operation}]}}");
            let operations = parse(body.as_bytes(), &Limits::default());
            operations.map(|mut all| all.remove(0).if_match)
        };
        assert!(matches!(parse("7").ok().unwrap(), Some(Tag::Version(7))));
        assert!(matches!(parse("\"*\"").ok().unwrap(), Some(Tag::Any)));
        assert!(parse("null").ok().unwrap().is_none());
        for other in ["-1", "1.5", "\"7\"", "[7]", "{}", "true", "[[[["] {
            let error = parse(other).err().unwrap();
            assert!(format!("{error:?}").contains("such as 7"), "{other}: {error:?}");
        }
    }

    #[test]
    fn a_text_is_copied_only_if_it_has_escapes() {
        let body = br#"{"operations":[{"op":"put","key":"a","value":"1\u00fc\n"}]}"#;
        let operations = parse(body, &Limits::default()).ok().unwrap();
        let Text(key) = &operations[0].key;
        assert!(matches!(key, Cow::Borrowed("a")));
        let value = operations[0].value.as_ref().unwrap();
        assert_eq!((value.as_ref(), value.len()), ("1\u{fc}\n".as_bytes(), 4));
    }

    #[test]
    fn what_is_too_much_is_not_read_to_its_end() {
        let operation = r#"{"op":"put","key":"a","value":"1"}"#;
        let limits = Limits { batch_operations_max: 2, ..Limits::default() };
        let body =
            format!("{{\"operations\":[{operation},{operation},{operation},invalid_messages");
        let error = parse(body.as_bytes(), &limits).err().unwrap();
        assert!(format!("{error:?}").contains("more than 2 operations"), "{error:?}");
        let limits = Limits { batch_bytes_max: 3, ..limits };
        let body = format!("{{\"operations\":[{operation},{operation},invalid_messages");
        let error = parse(body.as_bytes(), &limits).err().unwrap();
        assert!(format!("{error:?}").contains("more than 3 bytes"), "{error:?}");
        let body = format!("{{\"operations\":[{operation}]}} and more");
        assert!(parse(body.as_bytes(), &limits).is_err());
    }
}
