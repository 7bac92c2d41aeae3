//! The query parameters of the v1 API.
//!
//! An unknown parameter is an error. Otherwise a misspelt `consistency` would silently select the
//! default.

use super::problem::Problem;
use super::write::WAIT_MS;
use driver::ReadMode;
use hyper::HeaderMap;
use hyper::header::{CONTENT_RANGE, HeaderValue};
use percent_encoding::percent_decode_str;
use std::borrow::Cow;
use std::time::Duration;

/// The parameters of a query string, percent-decoded.
pub fn pairs(query: Option<&str>) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (
            percent_decode_str(name).decode_utf8_lossy(),
            percent_decode_str(value).decode_utf8_lossy(),
        )
    })
}

/// Checks that a write has no parameters. None are supported yet. Returns the value of the header
/// [`WAIT_MS`], if it is present.
pub fn of_write(query: Option<&str>, headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    if let Some((name, _)) = pairs(query).next() {
        return Err(if name == "ttl" {
            Problem::not_built("keys that expire (ttl) are not available in this version")
        } else {
            unknown(&name)
        });
    }
    if headers.contains_key(CONTENT_RANGE) {
        // If this were ignored, the part would replace the whole value (RFC 9110, 14.5).
        return Err(Problem::malformed(
            "a part of a value (Content-Range) cannot be written, only the whole",
        ));
    }
    if headers.contains_key("session-id") || headers.contains_key("session-seq") {
        return Err(Problem::not_built("sessions are not available in this version"));
    }
    let mut waits = headers.get_all(WAIT_MS).iter();
    match (waits.next(), waits.next()) {
        (None, _) => Ok(None),
        (Some(wait), None) => wait_of(wait).map(Some),
        (Some(_), Some(_)) => Err(repeated("header", WAIT_MS)),
    }
}

fn wait_of(header: &HeaderValue) -> Result<Duration, Problem> {
    let text = String::from_utf8_lossy(header.as_bytes());
    // `parse` alone would take a plus sign.
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let wait_ms = text.parse().ok().filter(|_| is_number);
    wait_ms.map(Duration::from_millis).ok_or_else(|| {
        let detail = format!("{WAIT_MS} is {text:?}: expected a number of milliseconds");
        Problem::malformed(detail)
    })
}

/// The error for a header or parameter that is given more than once: which one counts is unclear.
pub fn repeated(kind: &str, name: &str) -> Problem {
    Problem::malformed(format!("the {kind} {name} is given more than once"))
}

/// The mode of a read, from `consistency` and `max_age`. Default linearizable.
pub fn of_read(query: Option<&str>) -> Result<ReadMode, Problem> {
    let mut mode = None;
    let mut max_age = None;
    for (name, value) in pairs(query) {
        if (name == "consistency" && mode.is_some()) || (name == "max_age" && max_age.is_some()) {
            return Err(repeated("parameter", &name));
        }
        match (&*name, &*value) {
            ("consistency", "linearizable") => mode = Some(ReadMode::Linearizable),
            ("consistency", "lease") => mode = Some(ReadMode::Lease),
            ("consistency", "stale") => mode = Some(ReadMode::Stale { max_age: Duration::MAX }),
            ("consistency", other) => {
                return Err(Problem::malformed(format!(
                    "consistency is {other:?}: expected linearizable, lease or stale"
                )));
            }
            ("max_age", text) => max_age = Some(duration("max_age", text)?),
            (name, _) => return Err(unknown(name)),
        }
    }
    match (mode, max_age) {
        (mode, None) => Ok(mode.unwrap_or(ReadMode::Linearizable)),
        (Some(ReadMode::Stale { .. }), Some(max_age)) => Ok(ReadMode::Stale { max_age }),
        (_, Some(_)) => Err(Problem::malformed("max_age is only for consistency=stale")),
    }
}

/// The error for an unknown parameter.
pub fn unknown(name: &str) -> Problem {
    Problem::malformed(format!("the query parameter {name:?} is not known here"))
}

/// Parses the value of the parameter `name`, a duration such as `2s`, `500ms` or `1m`.
pub fn duration(name: &str, text: &str) -> Result<Duration, Problem> {
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
            let detail = format!(
                "{name} is {text:?}: expected a whole number with the unit ms, s or m, such as \
                 500ms, 2s or 60m"
            );
            Problem::malformed(detail)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut part = HeaderMap::new();
        part.insert(CONTENT_RANGE, HeaderValue::from_static("bytes 0-1/3"));
        assert!(of_write(None, &part).is_err());
    }
}
