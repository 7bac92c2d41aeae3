//! Query parameters and headers of the v1 API: what is understood, and a refusal of all else.
//!
//! A parameter that is not known is an error: a misspelt `consistency` must not quietly read something
//! else than was asked for.

use super::problem::Problem;
use crate::command::{Condition, Version};
use driver::ReadMode;
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use percent_encoding::percent_decode_str;
use std::borrow::Cow;
use std::time::Duration;

/// The parameters of a query string, decoded.
pub fn pairs(query: Option<&str>) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (
            percent_decode_str(name).decode_utf8_lossy(),
            percent_decode_str(value).decode_utf8_lossy(),
        )
    })
}

/// That a write has no parameters: there are none yet.
pub fn of_write(query: Option<&str>, headers: &HeaderMap) -> Result<(), Problem> {
    if let Some((name, _)) = pairs(query).next() {
        return Err(if name == "ttl" {
            Problem::not_built("keys that expire (ttl) are not available in this version")
        } else {
            unknown(&name)
        });
    }
    if headers.contains_key("session-id") || headers.contains_key("session-seq") {
        return Err(Problem::not_built("sessions are not available in this version"));
    }
    Ok(())
}

/// How fresh a read is to be: `consistency` and `max_age`.
pub fn of_read(query: Option<&str>) -> Result<ReadMode, Problem> {
    let mut mode = None;
    let mut max_age = None;
    for (name, value) in pairs(query) {
        match (&*name, &*value) {
            ("consistency", "linearizable") => mode = Some(ReadMode::Linearizable),
            ("consistency", "lease") => mode = Some(ReadMode::Lease),
            ("consistency", "stale") => mode = Some(ReadMode::Stale { max_age: Duration::MAX }),
            ("consistency", other) => {
                return Err(Problem::malformed(format!(
                    "consistency is {other:?}: expected linearizable, lease or stale"
                )));
            }
            ("max_age", text) => max_age = Some(duration(text)?),
            (name, _) => return Err(unknown(name)),
        }
    }
    match (mode, max_age) {
        (mode, None) => Ok(mode.unwrap_or(ReadMode::Linearizable)),
        (Some(ReadMode::Stale { .. }), Some(max_age)) => Ok(ReadMode::Stale { max_age }),
        (_, Some(_)) => Err(Problem::malformed("max_age is only for consistency=stale")),
    }
}

/// The error for a parameter that is not known here.
pub fn unknown(name: &str) -> Problem {
    Problem::malformed(format!("the query parameter {name:?} is not known here"))
}

/// The condition that `If-Match` and `If-None-Match` make.
pub fn condition(headers: &HeaderMap) -> Result<Condition, Problem> {
    match (single(headers, IF_MATCH)?, single(headers, IF_NONE_MATCH)?) {
        (None, None) => Ok(Condition::Always),
        (Some(tag), None) => Ok(match tag {
            Tag::Any => Condition::Exists,
            Tag::Version(version) => Condition::Is(version),
        }),
        (None, Some(tag)) => Ok(match tag {
            Tag::Any => Condition::Absent,
            Tag::Version(version) => Condition::IsNot(version),
        }),
        (Some(_), Some(_)) => {
            Err(Problem::malformed("If-Match and If-None-Match together are not understood"))
        }
    }
}

/// What stands in `If-Match` or `If-None-Match`.
enum Tag {
    Any,
    Version(Version),
}

fn single(headers: &HeaderMap, name: HeaderName) -> Result<Option<Tag>, Problem> {
    let mut values = headers.get_all(&name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let tag = match values.next() {
        None => tag(value),
        Some(_) => None,
    };
    tag.map(Some).ok_or_else(|| {
        Problem::malformed(format!("{name} has to be * or one version, such as \"7\""))
    })
}

fn tag(value: &HeaderValue) -> Option<Tag> {
    let text = value.to_str().ok()?.trim();
    if text == "*" {
        return Some(Tag::Any);
    }
    // With the quotes that an ETag has, or as a person types it.
    let inner = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
    let digits = !inner.is_empty() && inner.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| inner.parse().ok().map(|version| Tag::Version(Version(version)))).flatten()
}

/// `2s`, `500ms`, `1m`.
fn duration(text: &str) -> Result<Duration, Problem> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        _ => None,
    };
    number
        .parse::<u64>()
        .ok()
        .zip(unit_ms)
        .and_then(|(number, unit_ms)| number.checked_mul(unit_ms))
        .map(Duration::from_millis)
        .ok_or_else(|| {
            Problem::malformed(format!("{text:?} is no time: expected one such as 2s or 500ms"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn match_header(name: HeaderName, value: &'static str) -> Result<Condition, Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        condition(&headers)
    }

    #[test]
    fn a_version_is_understood_with_and_without_quotes() {
        assert_eq!(match_header(IF_MATCH, "\"7\"").unwrap(), Condition::Is(Version(7)));
        assert_eq!(match_header(IF_MATCH, "7").unwrap(), Condition::Is(Version(7)));
        assert_eq!(match_header(IF_NONE_MATCH, "\"7\"").unwrap(), Condition::IsNot(Version(7)));
        assert_eq!(match_header(IF_MATCH, "*").unwrap(), Condition::Exists);
        assert_eq!(match_header(IF_NONE_MATCH, "*").unwrap(), Condition::Absent);
        assert_eq!(condition(&HeaderMap::new()).unwrap(), Condition::Always);
    }

    #[test]
    fn a_condition_that_is_not_understood_is_no_condition_that_holds() {
        for value in
            ["", "\"", "\"x\"", "W/\"7\"", "\"1\", \"2\"", "-1", "+1", "99999999999999999999"]
        {
            assert!(match_header(IF_MATCH, value).is_err(), "{value}");
        }
        let mut both = HeaderMap::new();
        both.insert(IF_MATCH, HeaderValue::from_static("1"));
        both.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
        assert!(condition(&both).is_err());
    }

    #[test]
    fn a_read_says_how_fresh_it_must_be() {
        let stale = |max_age| ReadMode::Stale { max_age };
        assert_eq!(of_read(None).unwrap(), ReadMode::Linearizable);
        assert_eq!(of_read(Some("consistency=lease")).unwrap(), ReadMode::Lease);
        assert_eq!(of_read(Some("consistency=stale")).unwrap(), stale(Duration::MAX));
        let query = "max_age=500ms&consistency=stale";
        assert_eq!(of_read(Some(query)).unwrap(), stale(Duration::from_millis(500)));
        for query in [
            "consistency=",
            "consistency=fast",
            "consistancy=stale",
            "max_age=2s",
            "consistency=stale&max_age=2",
            "consistency=stale&max_age=s",
            "consistency=stale&max_age=99999999999999999999s",
            "x",
        ] {
            assert!(of_read(Some(query)).is_err(), "{query}");
        }
    }

    #[test]
    fn what_is_not_built_is_refused_and_not_ignored() {
        assert!(of_write(None, &HeaderMap::new()).is_ok());
        assert!(of_write(Some("ttl=30s"), &HeaderMap::new()).is_err());
        assert!(of_write(Some("x=1"), &HeaderMap::new()).is_err());
        let mut session = HeaderMap::new();
        session.insert("session-id", HeaderValue::from_static("1"));
        assert!(of_write(None, &session).is_err());
    }
}
