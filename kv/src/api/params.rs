//! The query parameters of the v1 API.
//!
//! An unknown parameter is an error. Otherwise a misspelt `consistency` would silently select the
//! default.

use super::problem::Problem;
use super::write::WAIT_MS;
use driver::{Consistency, SessionId, SessionNumber};
use hyper::header::CONTENT_RANGE;
use hyper::{HeaderMap, StatusCode, Uri};
use percent_encoding::percent_decode_str;
use std::borrow::Cow;
use std::time::Duration;
use storage::ClusterId;

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

/// The parameter with which a redirect names the cluster that the request is for.
const CLUSTER_ID: &str = "cluster_id";

/// The query of a redirect to another node of this cluster, for a request with this query. The
/// address that the cluster has for that node may have become that of another cluster's node, which
/// refuses the request then.
pub fn with_cluster(query: Option<&str>, cluster: Option<ClusterId>) -> String {
    let named = cluster.map(|cluster| format!("{CLUSTER_ID}={cluster}"));
    let pairs: Vec<&str> = query.into_iter().chain(named.as_deref()).collect();
    match pairs.is_empty() {
        true => String::new(),
        false => format!("?{}", pairs.join("&")),
    }
}

/// Takes what [`with_cluster`] has added out of a request's target. Refuses a request that is for
/// another cluster than `own`.
pub fn take_cluster(uri: &mut Uri, own: Option<ClusterId>) -> Result<(), Problem> {
    let Some(query) = uri.query().filter(|query| query.contains(CLUSTER_ID)) else {
        return Ok(());
    };
    let named = |pair: &&str| pair.split_once('=').is_some_and(|(name, _)| name == CLUSTER_ID);
    let (named, others): (Vec<&str>, Vec<&str>) = query.split('&').partition(named);
    let is_own = |pair: &str| {
        own.is_some_and(|own| pair.split_once('=').is_some_and(|(_, id)| id == own.to_string()))
    };
    if let Some(other) = named.iter().find(|pair| !is_own(pair)) {
        let detail = format!(
            "the request is for another cluster ({other}): the node that sent it here has an \
             address of its leader that is out of date; declare where that node is, or send the \
             request to it"
        );
        return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "wrong-cluster", detail));
    }
    let query = if others.is_empty() { String::new() } else { format!("?{}", others.join("&")) };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = format!("{}{query}", uri.path()).parse().ok();
    if let Ok(without) = Uri::from_parts(parts) {
        *uri = without;
    }
    Ok(())
}

/// The header with the id of a session, from `POST /v1/sessions`.
pub const SESSION_ID: &str = "session-id";

/// The header with the number of a write in its session, from 1.
pub const SESSION_SEQ: &str = "session-seq";

/// The parameters of a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteParams {
    /// How long it may wait for a leader, from the header [`WAIT_MS`].
    pub wait: Option<Duration>,
    /// Its session, and its number there.
    pub session: Option<SessionNumber>,
}

/// The parameters of a request that changes something other than keys.
pub fn of_operation(query: Option<&str>, headers: &HeaderMap) -> Result<(), Problem> {
    of_no_session(headers)?;
    of_write(query, headers).map(drop)
}

/// Checks that there are no headers of a session, for a request that cannot be part of one.
pub fn of_no_session(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(SESSION_ID) || headers.contains_key(SESSION_SEQ) {
        let detail = format!("{SESSION_ID} and {SESSION_SEQ} are not for this request");
        return Err(Problem::malformed(detail));
    }
    Ok(())
}

/// The parameters of a write. There are none in the query yet.
pub fn of_write(query: Option<&str>, headers: &HeaderMap) -> Result<WriteParams, Problem> {
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
    Ok(WriteParams { wait: of_wait(headers)?, session: of_session(headers)? })
}

/// How long a request may wait for a leader, from its header.
pub fn of_wait(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    let wait = number(headers, WAIT_MS, "a number of milliseconds")?;
    Ok(wait.map(Duration::from_millis))
}

/// The session of a write, from its headers.
pub fn of_session(headers: &HeaderMap) -> Result<Option<SessionNumber>, Problem> {
    let session = number(headers, SESSION_ID, "the id of a session")?;
    match (session, number(headers, SESSION_SEQ, "a number from 1")?) {
        (None, None) => Ok(None),
        (Some(_), Some(0)) => Err(Problem::malformed(format!("{SESSION_SEQ} begins at 1"))),
        (Some(session), Some(number)) => {
            let session = SessionId(session);
            Ok(Some(SessionNumber { session, number, repeats_from: 0 }))
        }
        _ => Err(Problem::malformed(format!("{SESSION_ID} and {SESSION_SEQ} go together"))),
    }
}

/// The value of a header that is a number.
fn number(headers: &HeaderMap, name: &str, expected: &str) -> Result<Option<u64>, Problem> {
    let mut values = headers.get_all(name).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value,
        (Some(_), Some(_)) => return Err(repeated("header", name)),
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    // `parse` alone would take a plus sign.
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| is_number);
    number
        .map(Some)
        .ok_or_else(|| Problem::malformed(format!("{name} is {text:?}: expected {expected}")))
}

/// The error for a header or parameter that is given more than once: which one counts is unclear.
pub fn repeated(kind: &str, name: &str) -> Problem {
    Problem::malformed(format!("the {kind} {name} is given more than once"))
}

/// The consistency of a read, from `consistency` and `max_age`. Default linearizable.
pub fn of_read(query: Option<&str>) -> Result<Consistency, Problem> {
    let mut consistency = None;
    let mut max_age = None;
    for (name, value) in pairs(query) {
        if (name == "consistency" && consistency.is_some())
            || (name == "max_age" && max_age.is_some())
        {
            return Err(repeated("parameter", &name));
        }
        match (&*name, &*value) {
            ("consistency", "linearizable") => consistency = Some(Consistency::Linearizable),
            ("consistency", "lease") => consistency = Some(Consistency::Lease),
            ("consistency", "stale") => {
                consistency = Some(Consistency::Stale { max_age: Duration::MAX })
            }
            ("consistency", other) => {
                return Err(Problem::malformed(format!(
                    "consistency is {other:?}: expected linearizable, lease or stale"
                )));
            }
            ("max_age", text) => max_age = Some(duration("max_age", text)?),
            (name, _) => return Err(unknown(name)),
        }
    }
    match (consistency, max_age) {
        (consistency, None) => Ok(consistency.unwrap_or(Consistency::Linearizable)),
        (Some(Consistency::Stale { .. }), Some(max_age)) => Ok(Consistency::Stale { max_age }),
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
    use hyper::header::HeaderValue;

    #[test]
    fn a_read_says_how_fresh_it_must_be() {
        let stale = |max_age| Consistency::Stale { max_age };
        assert_eq!(of_read(None).unwrap(), Consistency::Linearizable);
        assert_eq!(of_read(Some("consistency=lease")).unwrap(), Consistency::Lease);
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
    fn a_redirect_is_followed_within_its_cluster_only() {
        let (own, other) = (Some(ClusterId(7)), Some(ClusterId(8)));
        for query in [None, Some("wait=1s"), Some("a=1&cluster_ids=2")] {
            let named: Uri = format!("/v1/x{}", with_cluster(query, own)).parse().unwrap();
            let mut taken = named.clone();
            take_cluster(&mut taken, own).unwrap();
            assert_eq!((taken.path(), taken.query()), ("/v1/x", query));
            for elsewhere in [other, None] {
                assert!(take_cluster(&mut named.clone(), elsewhere).is_err());
            }
        }
        let mut both: Uri = "/v1/x?cluster_id=0000000000000007&cluster_id=8".parse().unwrap();
        assert!(take_cluster(&mut both, own).is_err());
        assert_eq!(with_cluster(None, None), "");
    }

    #[test]
    fn a_session_has_an_id_and_a_number() {
        let of = |lines: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, HeaderValue::from_static(value));
            }
            of_write(None, &headers).map(|params| params.session)
        };
        let number = SessionNumber { session: SessionId(17), number: 3, repeats_from: 0 };
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&[(SESSION_ID, "17"), (SESSION_SEQ, "3")]).unwrap(), Some(number));
        for lines in [
            &[(SESSION_ID, "17")][..],
            &[(SESSION_SEQ, "3")],
            &[(SESSION_ID, "17"), (SESSION_SEQ, "0")],
            &[(SESSION_ID, "17"), (SESSION_SEQ, "+3")],
            &[(SESSION_ID, "x"), (SESSION_SEQ, "3")],
            &[(SESSION_ID, "17"), (SESSION_SEQ, "3"), (SESSION_SEQ, "3")],
        ] {
            assert!(of(lines).is_err(), "{lines:?}");
        }
    }

    #[test]
    fn what_is_not_built_is_refused_and_not_ignored() {
        assert!(of_write(None, &HeaderMap::new()).is_ok());
        assert!(of_write(Some("ttl=30s"), &HeaderMap::new()).is_err());
        assert!(of_write(Some("x=1"), &HeaderMap::new()).is_err());
        let mut part = HeaderMap::new();
        part.insert(CONTENT_RANGE, HeaderValue::from_static("bytes 0-1/3"));
        assert!(of_write(None, &part).is_err());
    }
}
