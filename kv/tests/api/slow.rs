//! Bodies that arrive slowly, in part, or not at all.

use crate::node::{Node, single};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// Sends the head of a PUT with a body of `claimed` bytes, and `sent` bytes of it.
fn begin_put(node: &Node, headers: &str, claimed: usize, sent: usize) -> TcpStream {
    let mut stream = TcpStream::connect(node.address).expect("the node listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout can be set");
    let head = format!("PUT /v1/kv/a HTTP/1.1\r\n{headers}content-length: {claimed}\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("the node reads");
    stream.write_all(&vec![b'x'; sent]).expect("the node reads");
    stream
}

/// Reads until `end` is the end of what has arrived.
fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let (mut all, mut byte) = (String::new(), [0]);
    while !all.ends_with(end) {
        assert_eq!(stream.read(&mut byte).expect("the node answers"), 1, "{all}");
        all.push(char::from(byte[0]));
    }
    all
}

#[test]
fn an_answer_that_is_sent_before_the_body_was_read_arrives() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |config| {
        config.limits.bodies_bytes_max = 200 << 10;
        config.limits.value_bytes_max = 8 << 20;
    });
    let local = "host: localhost\r\n";
    for (headers, status) in [(local, "429"), ("host: evil.example\r\n", "403"), ("", "400")] {
        for _ in 0..10 {
            let mut stream = begin_put(&node, headers, 6 << 20, 0);
            // A client that reads nothing before it has sent everything.
            let sent = stream.write_all(&vec![b'x'; 6 << 20]);
            let mut answer = String::new();
            let read = stream.read_to_string(&mut answer);
            let shown = format!("{status}: {answer:?} {sent:?} {read:?}");
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{shown}");
            assert!(answer.ends_with('}') && sent.is_ok() && read.is_ok(), "{shown}");
        }
    }
    assert_eq!(node.ask("PUT", "/v1/kv/a", "x").status, 200);
}

#[test]
fn a_client_that_asks_before_it_sends_a_body_that_is_too_large_is_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(directory.path(), |_| ());
    let headers = "host: localhost\r\nexpect: 100-continue\r\n";
    let mut stream = begin_put(&node, headers, 5_000_000, 0);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the node answers and closes");
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(!answer.contains("100 Continue"), "{answer}");

    let mut stream = begin_put(&node, headers, 5, 0);
    assert_eq!(read_until(&mut stream, "\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"12345").expect("the node reads");
    stream.shutdown(Shutdown::Write).expect("the node reads");
    assert!(read_until(&mut stream, "\r\n\r\n").starts_with("HTTP/1.1 200 "));
}
