//! The conditions of a request: `If-Match` and `If-None-Match` (RFC 9110, 13.1).
//!
//! An entity tag is a version in quotes. `If-Match` compares strongly: a weak tag (`W/"7"`) never
//! matches. `If-None-Match` compares weakly. A tag that is not a version is valid and matches no
//! version. For people with curl, digits without quotes are a version too.

use super::problem::Problem;
use crate::command::{Condition, Version};
use hyper::HeaderMap;
use hyper::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};

/// The most tags in one kind of header. Bounds the number of versions in a command.
const TAGS_MAX: usize = 256;

/// The condition of a write, from both headers.
pub fn of_write(headers: &HeaderMap) -> Result<Condition, Problem> {
    let conditions = of_read(headers)?;
    let condition = match (conditions.matches, conditions.matches_none) {
        (None, None) => Condition::Always,
        (Some(Tags::Any), None) => Condition::Exists,
        (None, Some(Tags::Any)) => Condition::Absent,
        (Some(Tags::List(versions)), None) => match versions[..] {
            [version] => Condition::Is(version),
            _ => Condition::AnyOf(versions),
        },
        (None, Some(Tags::List(versions))) => match versions[..] {
            [version] => Condition::IsNot(version),
            _ => Condition::NoneOf(versions),
        },
        // The key would have to exist and not to exist, so the condition never holds.
        (Some(_), Some(Tags::Any)) => Condition::AnyOf(Vec::new()),
        (Some(Tags::List(mut versions)), Some(Tags::List(others))) => {
            versions.retain(|version| !others.contains(version));
            Condition::AnyOf(versions)
        }
        (Some(Tags::Any), Some(Tags::List(_))) => {
            return Err(Problem::malformed(
                "If-Match: * together with versions in If-None-Match is not understood",
            ));
        }
    };
    Ok(condition)
}

/// The conditions of a read, from both headers.
pub fn of_read(headers: &HeaderMap) -> Result<Conditions, Problem> {
    Ok(Conditions {
        matches: tags(headers, IF_MATCH, Comparison::Strong)?,
        matches_none: tags(headers, IF_NONE_MATCH, Comparison::Weak)?,
    })
}

/// The conditions of a read.
#[derive(Debug)]
pub struct Conditions {
    matches: Option<Tags>,
    matches_none: Option<Tags>,
}

/// The outcome of a read that found the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The value is sent.
    Send,
    /// The client already has this version: status 304.
    NotModified,
    /// `If-Match` does not match this version: status 412.
    Failed,
}

impl Conditions {
    /// Whether they hold only if the key exists (RFC 9110, 13.1.1).
    pub fn need_the_key(&self) -> bool {
        self.matches.is_some()
    }

    /// Evaluates the conditions for the version that was found. `If-Match` takes precedence.
    pub fn verdict(&self, found: Version) -> Verdict {
        if self.matches.as_ref().is_some_and(|tags| !tags.contain(found)) {
            return Verdict::Failed;
        }
        match &self.matches_none {
            Some(tags) if tags.contain(found) => Verdict::NotModified,
            _ => Verdict::Send,
        }
    }
}

/// The value of one of the headers: `*`, or a list of tags.
#[derive(Debug)]
enum Tags {
    Any,
    List(Vec<Version>),
}

impl Tags {
    fn contain(&self, version: Version) -> bool {
        match self {
            Tags::Any => true,
            Tags::List(versions) => versions.contains(&version),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

fn tags(
    headers: &HeaderMap,
    name: HeaderName,
    comparison: Comparison,
) -> Result<Option<Tags>, Problem> {
    let malformed = || {
        let lines = headers.get_all(&name).iter();
        let lines: Vec<_> = lines.map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
        let found = lines.join(", ");
        let text =
            format!("{name} is {found:?}: expected * or versions, such as \"7\" or \"7\", \"9\"");
        Problem::malformed(text)
    };
    let mut lines = headers.get_all(&name).iter().peekable();
    if lines.peek().is_none() {
        return Ok(None);
    }
    let (mut any, mut found, mut versions) = (false, 0, Vec::new());
    for line in lines {
        let mut rest = line.to_str().map_err(|_| malformed())?;
        while let Some((tag, after)) = next(rest).ok_or_else(malformed)? {
            rest = after;
            found += 1;
            match tag {
                Tag::Any => any = true,
                Tag::Weak(_) if comparison == Comparison::Strong => {}
                Tag::Weak(version) | Tag::Strong(version) => versions.extend(version),
            }
        }
    }
    match found {
        0 => Err(malformed()),
        1 if any => Ok(Some(Tags::Any)),
        _ if any => Err(malformed()),
        _ if found > TAGS_MAX => {
            Err(Problem::malformed(format!("{name} has {found} tags; {TAGS_MAX} are allowed")))
        }
        _ => Ok(Some(Tags::List(versions))),
    }
}

/// An entry of a list. A tag without a version matches none.
enum Tag {
    Any,
    Strong(Option<Version>),
    Weak(Option<Version>),
}

/// The next entry of a list, and the rest of the list. `None` means that the list is malformed,
/// `Some(None)` that it has ended.
fn next(list: &str) -> Option<Option<(Tag, &str)>> {
    let list = list.trim_start_matches([' ', '\t', ',']);
    if list.is_empty() {
        return Some(None);
    }
    let (weak, opaque) = match list.strip_prefix("W/") {
        Some(rest) => (true, rest),
        None => (false, list),
    };
    let (tag, rest) = if let Some(quoted) = opaque.strip_prefix('"') {
        let (text, rest) = quoted.split_once('"')?;
        let is_tag = text.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x7e | 0x80..));
        let version = is_tag.then(|| version(text))?;
        (if weak { Tag::Weak(version) } else { Tag::Strong(version) }, rest)
    } else if let Some(rest) = list.strip_prefix('*') {
        (Tag::Any, rest)
    } else {
        let digits = list.bytes().take_while(u8::is_ascii_digit).count();
        let (text, rest) = list.split_at(digits);
        (Tag::Strong(Some(Version(text.parse().ok()?))), rest)
    };
    let rest = rest.trim_start_matches([' ', '\t']);
    (rest.is_empty() || rest.starts_with(',')).then_some(Some((tag, rest)))
}

/// The version that a tag denotes. Tags are compared as strings, so a tag such as `"07"` denotes
/// none.
fn version(text: &str) -> Option<Version> {
    let version = Version(text.parse().ok()?);
    (version.to_string() == text).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn headers(lines: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    fn write(lines: &[(HeaderName, &'static str)]) -> Result<Condition, Problem> {
        of_write(&headers(lines))
    }

    fn any_of(versions: &[u64]) -> Condition {
        Condition::AnyOf(versions.iter().copied().map(Version).collect())
    }

    fn none_of(versions: &[u64]) -> Condition {
        Condition::NoneOf(versions.iter().copied().map(Version).collect())
    }

    #[test]
    fn a_write_depends_on_what_the_headers_say() {
        let (is, is_not) = (|text| (IF_MATCH, text), |text| (IF_NONE_MATCH, text));
        for (lines, expected) in [
            (vec![], Condition::Always),
            (vec![is("\"7\"")], Condition::Is(Version(7))),
            (vec![is("7")], Condition::Is(Version(7))),
            (vec![is("*")], Condition::Exists),
            (vec![is("\"1\", \"2\"")], any_of(&[1, 2])),
            (vec![is(",\"1\",, \"2\" ,")], any_of(&[1, 2])),
            (vec![is("\"1\""), is("\"2\"")], any_of(&[1, 2])),
            // None of these matches any version.
            (vec![is("W/\"7\"")], any_of(&[])),
            (vec![is("\"x\"")], any_of(&[])),
            (vec![is("\"\"")], any_of(&[])),
            (vec![is("\"07\"")], any_of(&[])),
            (vec![is("\"99999999999999999999\"")], any_of(&[])),
            (vec![is("W/\"7\", \"8\"")], Condition::Is(Version(8))),
            (vec![is_not("\"7\"")], Condition::IsNot(Version(7))),
            (vec![is_not("W/\"7\"")], Condition::IsNot(Version(7))),
            (vec![is_not("*")], Condition::Absent),
            (vec![is_not("\"1\", W/\"2\"")], none_of(&[1, 2])),
            (vec![is_not("\"x\"")], none_of(&[])),
            (vec![is("1, 2, 3"), is_not("2")], any_of(&[1, 3])),
            (vec![is("1"), is_not("*")], any_of(&[])),
        ] {
            assert_eq!(write(&lines).unwrap(), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_condition_that_is_not_understood_is_no_condition_that_holds() {
        for value in [
            "",
            ",",
            "\"",
            "x",
            "\"a",
            "\"a b\"",
            "w/\"7\"",
            "\"1\" \"2\"",
            "*, 1",
            "-1",
            "+1",
            "1x",
        ] {
            assert!(write(&[(IF_MATCH, value)]).is_err(), "{value}");
        }
        assert!(write(&[(IF_MATCH, "99999999999999999999")]).is_err());
        assert!(write(&[(IF_MATCH, "*"), (IF_NONE_MATCH, "1")]).is_err());
        let many: &'static str = "1,".repeat(TAGS_MAX + 1).leak();
        assert!(write(&[(IF_MATCH, many)]).is_err());
    }

    #[test]
    fn a_read_may_find_that_the_client_has_the_value() {
        let verdict = |lines: &[_]| of_read(&headers(lines)).unwrap().verdict(Version(7));
        for (lines, expected) in [
            (vec![], Verdict::Send),
            (vec![(IF_NONE_MATCH, "\"7\"")], Verdict::NotModified),
            (vec![(IF_NONE_MATCH, "W/\"7\", \"9\"")], Verdict::NotModified),
            (vec![(IF_NONE_MATCH, "*")], Verdict::NotModified),
            (vec![(IF_NONE_MATCH, "\"8\"")], Verdict::Send),
            (vec![(IF_MATCH, "\"7\"")], Verdict::Send),
            (vec![(IF_MATCH, "*")], Verdict::Send),
            (vec![(IF_MATCH, "W/\"7\"")], Verdict::Failed),
            (vec![(IF_MATCH, "\"8\"")], Verdict::Failed),
            (vec![(IF_MATCH, "7"), (IF_NONE_MATCH, "7")], Verdict::NotModified),
            (vec![(IF_MATCH, "8"), (IF_NONE_MATCH, "7")], Verdict::Failed),
        ] {
            assert_eq!(verdict(&lines), expected, "{lines:?}");
        }
    }
}
