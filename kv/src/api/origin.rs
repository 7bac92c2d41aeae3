//! Rejects requests that a foreign web page makes through a browser.
//!
//! A browser lets any page send requests to a node on the same machine or network. Three headers
//! identify such requests. `Origin` names the page. `Host` has the name under which the browser
//! found the node; after DNS rebinding, that is the page's own name. A numeric address cannot be
//! rebound. `Sec-Fetch-Site` says that a page of another site loads the answer, as a script or an
//! image: it cannot read that, but learns whether there is one. Only a person may follow a link.

use hyper::HeaderMap;
use hyper::header::ORIGIN;
use raft::Membership;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The host names under which a node may be addressed, besides `localhost` and numeric addresses.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    names: BTreeSet<String>,
    /// Every name is admitted.
    any: bool,
}

impl Hosts {
    /// Admits the hosts of these addresses. Each is `host:port` or a host alone. `*` admits every
    /// name.
    pub fn of(addresses: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let names = addresses.into_iter().map(|a| name_of(a.as_ref()));
        let names: BTreeSet<String> = names.collect();
        Hosts { any: names.contains("*"), names }
    }

    /// Whether `Host` is absent or admitted. A request from a browser always has one.
    pub fn admits_host(&self, host: Option<&str>, membership: &Membership) -> bool {
        host.is_none_or(|host| self.knows(host, membership))
    }

    /// Whether `Origin` is absent, or names the same host and port as `Host` and that host is
    /// admitted, and no page of another site loads the answer.
    pub fn admits_origin(
        &self,
        host: Option<&str>,
        headers: &HeaderMap,
        membership: &Membership,
    ) -> bool {
        let is_own = headers.get_all(ORIGIN).iter().all(|origin| {
            let (Ok(origin), Some(host)) = (origin.to_str(), host) else { return false };
            let page = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            page.is_some_and(|page| page.eq_ignore_ascii_case(host)) && self.knows(host, membership)
        });
        is_own && !is_loaded_by_another_site(headers)
    }

    fn knows(&self, host: &str, membership: &Membership) -> bool {
        let name = name_of(host);
        let digits = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(&name);
        self.any
            || name == "localhost"
            || digits.parse::<IpAddr>().is_ok()
            || self.names.contains(&name)
            || membership.members.values().any(|member| name_of(&member.client_address) == name)
    }
}

fn is_loaded_by_another_site(headers: &HeaderMap) -> bool {
    let Some(site) = headers.get("sec-fetch-site") else { return false };
    let is = |name: &str, value: &str| headers.get(name).is_some_and(|found| found == value);
    let is_link = is("sec-fetch-mode", "navigate") && is("sec-fetch-dest", "document");
    !is_link && (site == "cross-site" || site == "same-site")
}

/// The name of the host, as it is compared: the dot at its end only says that it is complete.
fn name_of(address: &str) -> String {
    let host = host_of(address);
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// The host of `host:port`, or of a host alone.
fn host_of(address: &str) -> &str {
    match address.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            // An IPv6 address without brackets has no port.
            if host.contains(':') && !host.ends_with(']') { address } else { host }
        }
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn headers(origin: Option<&'static str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(origin) = origin {
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
        }
        headers
    }

    fn admits(host: Option<&'static str>, origin: Option<&'static str>) -> (bool, bool) {
        let hosts = Hosts::of(["node1.example:8080"]);
        let nobody = Membership::default();
        let admits_origin = hosts.admits_origin(host, &headers(origin), &nobody);
        (hosts.admits_host(host, &nobody), admits_origin)
    }

    #[test]
    fn people_and_programs_are_admitted_under_every_usual_name() {
        for host in [
            "localhost:8080",
            "localhost",
            "127.0.0.1:8080",
            "[::1]:8080",
            "192.168.1.7",
            "node1.example:8080",
            "NODE1.example",
            "node1.example.:8080",
        ] {
            assert_eq!(admits(Some(host), None), (true, true), "{host}");
        }
        assert_eq!(admits(None, None), (true, true));
    }

    #[test]
    fn a_page_of_another_site_loads_nothing() {
        let nobody = Membership::default();
        for (site, mode, dest, is_admitted) in [
            ("cross-site", "no-cors", "script", false),
            ("same-site", "no-cors", "image", false),
            ("cross-site", "navigate", "iframe", false),
            ("cross-site", "navigate", "document", true),
            ("same-origin", "no-cors", "script", true),
            ("none", "navigate", "document", true),
        ] {
            let mut headers = headers(None);
            headers.insert("sec-fetch-site", HeaderValue::from_static(site));
            headers.insert("sec-fetch-mode", HeaderValue::from_static(mode));
            headers.insert("sec-fetch-dest", HeaderValue::from_static(dest));
            let admits = Hosts::default().admits_origin(Some("localhost:8080"), &headers, &nobody);
            assert_eq!(admits, is_admitted, "{site} {mode} {dest}");
        }
    }

    #[test]
    fn a_web_page_of_somebody_else_is_not_admitted() {
        // It addresses the node by the page's own name.
        assert!(!admits(Some("evil.example:8080"), None).0);
        assert!(!admits(Some("evil.example:8080"), Some("http://evil.example:8080")).1);
        // It addresses the node by a name of the node.
        assert!(!admits(Some("localhost:8080"), Some("http://evil.example")).1);
        assert!(!admits(Some("localhost:8080"), Some("http://localhost:3000")).1);
        assert!(!admits(Some("localhost:8080"), Some("null")).1);
    }

    #[test]
    fn other_names_can_be_admitted_one_by_one_or_all() {
        let nobody = Membership::default();
        let admits = |hosts: &[&str], host| Hosts::of(hosts).admits_host(Some(host), &nobody);
        assert!(admits(&["store.example"], "store.example:8080"));
        assert!(!admits(&["store.example"], "evil.example"));
        assert!(admits(&["*"], "evil.example"));
        // `*` admits every `Host`, but no foreign `Origin`.
        let foreign = headers(Some("http://evil.example"));
        assert!(!Hosts::of(["*"]).admits_origin(Some("localhost:8080"), &foreign, &nobody));
    }

    #[test]
    fn our_own_page_is_admitted() {
        assert!(admits(Some("localhost:8080"), Some("http://localhost:8080")).1);
    }
}
