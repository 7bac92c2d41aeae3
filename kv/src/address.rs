//! Members and their addresses, as an operator writes them.

use crate::plain::shown;
use crate::serve::Peer;
use raft::{AddressError, NodeId, check_address};
use std::net::IpAddr;

/// Parses one member: `0=host:8080/host:9080`, the address for its clients and the one for its
/// peers.
pub fn member(text: &str) -> Result<Peer, String> {
    if text.trim().is_empty() {
        return Err("an entry of the list is empty: there is a comma too many".to_owned());
    }
    let parts = text.split_once('=').and_then(|(id, addresses)| {
        let (client, peer) = addresses.split_once('/')?;
        Some((id.trim().parse().ok()?, client.trim(), peer.trim()))
    });
    let entry = shown(text);
    if text.contains("://") {
        return Err(format!("{entry}: expected HOST:PORT, without http://"));
    }
    let Some((id, client, peer)) = parts else {
        return Err(format!("{entry}: expected ID=CLIENT_HOST:PORT/PEER_HOST:PORT"));
    };
    for address in [client, peer] {
        check(address).map_err(|why| format!("{entry}: {} {why}", shown(address)))?;
    }
    Ok(Peer { id: NodeId(id), client_address: client.to_owned(), peer_address: peer.to_owned() })
}

/// Checks the form of an address at which others are to reach a node. The reason continues a
/// sentence that begins with the address.
pub fn check(address: &str) -> Result<(), String> {
    if let Err(why @ AddressError::TooLong { .. }) = check_address(address) {
        return Err(why.to_string());
    }
    let Some((host, port)) = address.rsplit_once(':') else {
        return Err("has no port: expected HOST:PORT".to_owned());
    };
    match port.parse::<u16>() {
        Ok(0) => return Err("has port 0: the others have to know the port".to_owned()),
        Ok(_) => {}
        Err(_) if port.bytes().all(|byte| byte.is_ascii_digit()) && !port.is_empty() => {
            return Err("has a port above 65535".to_owned());
        }
        Err(_) => return Err("has no port: expected HOST:PORT".to_owned()),
    }
    if host.is_empty() {
        return Err("has no host: name the host at which the others reach this node".to_owned());
    }
    let digits = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if digits.is_none() && host.contains(':') {
        return Err("is no HOST:PORT: put an IPv6 address in brackets".to_owned());
    }
    check_address(host).map_err(|why| why.to_string())?;
    match digits.unwrap_or(host).parse::<IpAddr>() {
        Ok(ip) if ip.to_canonical().is_unspecified() => Err(
            "is an address to listen on, not one to be reached at: name this node's address in \
             --peers, and give this one to --listen or --peer-listen"
                .to_owned(),
        ),
        Ok(ip) if ip.is_multicast() => Err("is no address of a node".to_owned()),
        Ok(_) => Ok(()),
        Err(_) if digits.is_some() => Err("is no IPv6 address".to_owned()),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_cannot_work_is_refused_with_the_reason() {
        let long = format!("0=127.0.0.1:8080/{}:9080", "a".repeat(70_000));
        for (text, why) in [
            ("", "comma too many"),
            ("0=127.0.0.1:8080", "expected ID="),
            ("x=127.0.0.1:8080/127.0.0.1:9080", "expected ID="),
            ("0=127.0.0.1/127.0.0.1:9080", "no port"),
            ("0=127.0.0.1:0/127.0.0.1:9080", "port 0"),
            ("0=127.0.0.1:8080/127.0.0.1:0", "port 0"),
            ("0=127.0.0.1:80800/127.0.0.1:9080", "above 65535"),
            ("0=127.0.0.1:x/127.0.0.1:9080", "no port"),
            ("0=0.0.0.0:8080/127.0.0.1:9080", "0.0.0.0:8080 is an address to listen on"),
            ("0=127.0.0.1:8080/[::]:9080", "[::]:9080 is an address to listen on"),
            ("0=:8080/127.0.0.1:9080", ":8080 has no host"),
            ("0=::1:8080/127.0.0.1:9080", "brackets"),
            ("0=[node]:8080/127.0.0.1:9080", "no IPv6 address"),
            ("0=http://a:8080/127.0.0.1:9080", "without http://"),
            ("0=a b:8080/127.0.0.1:9080", "contains ' '"),
            ("0=a\x1b[31m:8080/127.0.0.1:9080", "contains '\\u{1b}'"),
            ("0=127.0.0.1:8080/a\nb:9080", "contains '\\n'"),
            ("0=ü:8080/127.0.0.1:9080", "contains 'ü'"),
            (&long, "has 70005 bytes, and an address has at most 261"),
        ] {
            let error = member(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
            assert!(!error.contains(char::is_control) && error.len() < 1_000, "{error}");
        }
        assert!(member("0=[::1]:8080/node-0.example:9080").is_ok());
    }
}
