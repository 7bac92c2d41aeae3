//! A client that allocates nothing while it measures: what is counted is the servers'.

use crate::rounds::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A request without an answer after this time is an error.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// A connection, for one request after the other.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects to a node.
    pub fn open(address: SocketAddr) -> Result<Self, Error> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Connection { stream, buffer: vec![0; ANSWER_BYTES_MAX] })
    }

    /// Sends a request, made with [`request`].
    pub fn send(&mut self, request: &[u8]) -> Result<(), Error> {
        Ok(self.stream.write_all(request)?)
    }

    /// Reads the answer: its status and its body.
    pub fn answer(&mut self) -> Result<(u16, &[u8]), Error> {
        let mut filled = 0;
        loop {
            let free = &mut self.buffer[filled..];
            if free.is_empty() {
                return Err("an answer is too long".into());
            }
            match self.stream.read(free)? {
                0 => return Err("a node has closed a connection".into()),
                read => filled += read,
            }
            if let Some((status, body)) = parse(&self.buffer[..filled])? {
                return Ok((status, &self.buffer[body..filled]));
            }
        }
    }
}

/// The bytes of a request.
pub fn request(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// The status of an answer and where its body begins, or `None` if it is not complete.
fn parse(answer: &[u8]) -> Result<Option<(u16, usize)>, Error> {
    let Some(end) = answer.windows(4).position(|part| part == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&answer[..end])?;
    let status = head.split(' ').nth(1).ok_or("an answer without a status")?.parse()?;
    let name = "content-length:";
    let is_length =
        |line: &&str| line.get(..name.len()).is_some_and(|n| n.eq_ignore_ascii_case(name));
    let line = head.split("\r\n").find(is_length).ok_or("an answer without a length")?;
    let length: usize = line[name.len()..].trim().parse()?;
    let body = end + 4;
    Ok((answer.len() >= body + length).then_some((status, body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_with_its_last_byte() {
        let answer = b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok";
        for cut in 0..answer.len() {
            assert_eq!(parse(&answer[..cut]).unwrap(), None);
        }
        assert_eq!(parse(answer).unwrap(), Some((204, answer.len() - 2)));
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
