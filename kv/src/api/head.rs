//! Checks of the head that apply to every request.

use super::problem::Problem;
use hyper::header::{HOST, TRANSFER_ENCODING};
use hyper::http::uri::Authority;
use hyper::{HeaderMap, Request, StatusCode, Uri, Version};

/// The most bytes of the head of a client's request.
pub const HEAD_BYTES_MAX: usize = 64 << 10;
/// The most headers of a client's request. The HTTP library takes 100.
const HEADERS_MAX: usize = 96;

/// The host that a request is for. `None` only in HTTP/1.0, where it is optional. A missing,
/// repeated or malformed `Host` is an error (RFC 9112, 3.2).
pub fn host<'a>(
    version: Version,
    uri: &'a Uri,
    headers: &'a HeaderMap,
) -> Result<Option<&'a str>, Problem> {
    let mut hosts = headers.get_all(HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(Problem::malformed("the request has more than one Host header"));
    }
    // An absolute request target contains the host, and the header must be ignored.
    if let Some(authority) = uri.authority() {
        return Ok(Some(authority.as_str()));
    }
    let Some(host) = first else {
        return match version {
            Version::HTTP_09 | Version::HTTP_10 => Ok(None),
            _ => Err(Problem::malformed("the request has no Host header")),
        };
    };
    let text = host.to_str().ok().filter(|text| {
        text.parse::<Authority>().is_ok_and(|authority| !authority.as_str().contains('@'))
    });
    text.map(Some).ok_or_else(|| Problem::malformed("the Host header is not host or host:port"))
}

/// Checks the size of a head and the number of its headers.
pub fn check_size<B>(request: &Request<B>) -> Result<(), Problem> {
    let headers = request.headers();
    let uri = request.uri();
    let bytes = request.method().as_str().len()
        + uri.path_and_query().map_or(0, |path| path.as_str().len())
        + uri.authority().map_or(0, |authority| authority.as_str().len())
        + headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>();
    let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    if bytes > HEAD_BYTES_MAX {
        let detail = format!("the head has {bytes} bytes; {HEAD_BYTES_MAX} are allowed");
        return Err(Problem::new(status, "head-too-large", detail));
    }
    if headers.len() > HEADERS_MAX {
        let found = headers.len();
        let detail = format!("the request has {found} headers; {HEADERS_MAX} are allowed");
        return Err(Problem::new(status, "head-too-large", detail));
    }
    Ok(())
}

/// Checks that the body is sent as it is, or in chunks. The HTTP library removes the chunks and
/// leaves any other coding in the body.
pub fn check_coding(headers: &HeaderMap) -> Result<(), Problem> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let known = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(only), None) => only.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    };
    let detail = "the only transfer coding of a body is chunked";
    known.then_some(()).ok_or_else(|| {
        Problem::new(StatusCode::NOT_IMPLEMENTED, "transfer-coding", detail.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn host_of(version: Version, uri: &str, hosts: &[&'static str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_static(host));
        }
        let uri = uri.parse().unwrap();
        host(version, &uri, &headers).ok().map(|host| host.unwrap_or("none").to_owned())
    }

    #[test]
    fn a_request_names_exactly_one_host() {
        let found = |uri, hosts: &[&'static str]| host_of(Version::HTTP_11, uri, hosts);
        assert_eq!(found("/a", &["b:1"]).as_deref(), Some("b:1"));
        assert_eq!(found("/a", &["[::1]:8080"]).as_deref(), Some("[::1]:8080"));
        assert_eq!(found("http://c:2/a", &["b:1"]).as_deref(), Some("c:2"));
        assert_eq!(found("/a", &[]), None);
        assert_eq!(found("/a", &["b:1", "b:1"]), None);
        for host in ["", "a b", "a/b", "u@b"] {
            assert_eq!(found("/a", &[host]), None, "{host}");
        }
        assert_eq!(host_of(Version::HTTP_10, "/a", &[]).as_deref(), Some("none"));
    }
}
