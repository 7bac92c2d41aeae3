//! `raft-kv bench` against a server whose stalls are known.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A server that answers as a leader does. The first `stalls` writes take the time `stall`; all
/// others are answered at once. It serves until the test ends.
fn stalling_server(stalls: usize, stall: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let writes = Arc::new(AtomicUsize::new(0));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let writes = writes.clone();
            let is_slow = move || writes.fetch_add(1, Ordering::SeqCst) < stalls;
            std::thread::spawn(move || serve(stream, is_slow, stall));
        }
    });
    address
}

fn serve(mut stream: TcpStream, is_slow: impl Fn() -> bool, stall: Duration) {
    let mut input = BufReader::new(stream.try_clone().unwrap());
    while let Some((method, body_bytes)) = head(&mut input) {
        // A client that has gone needs no answer.
        if input.read_exact(&mut vec![0; body_bytes]).is_err() {
            return;
        }
        if method == "PUT" && is_slow() {
            std::thread::sleep(stall);
        }
        let body = r#"{"is_leader":true}"#;
        let length = body.len();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Reads the head of a request: its method, and the length of its body. `None` at the end.
fn head(input: &mut impl BufRead) -> Option<(String, usize)> {
    let mut lines = input.lines().map_while(Result::ok);
    let first = lines.next()?;
    let mut body_bytes = 0;
    for line in lines.take_while(|line| !line.is_empty()) {
        if let Some(length) = line.to_lowercase().strip_prefix("content-length:") {
            body_bytes = length.trim().parse().unwrap();
        }
    }
    Some((first.split(' ').next()?.to_owned(), body_bytes))
}

fn bench(server: &str, more: &[&str]) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_raft-kv"))
        .args(["bench", "--json", "--server", server, "--clients=1"])
        .args(more)
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn an_open_loop_shows_a_stall_in_every_request_that_it_delays() {
    let server = stalling_server(1, Duration::from_millis(500));
    let report = bench(&server, &["--rate=200", "--duration=1s", "--timeout=60s"]);
    assert_eq!(report["done"], 200, "{report}");
    // 100 requests become due within the stall, and the first 40 of them wait for 300 ms or more. A
    // busy machine makes them wait longer.
    let p90_us = report["latency_us"]["p90"].as_u64().unwrap();
    assert!(p90_us >= 300_000, "{report}");
    let open_loop = &report["open_loop"];
    assert_eq!((&open_loop["due"], &open_loop["not_sent"]), (&200.into(), &0.into()), "{report}");
    assert!(open_loop["waited"].as_u64().unwrap() >= 90, "{report}");
    assert!(open_loop["delay_us"]["p90"].as_u64().unwrap() >= 300_000, "{report}");
}

#[test]
fn a_closed_loop_sends_nothing_while_it_waits() {
    let server = stalling_server(1, Duration::from_millis(500));
    let report = bench(&server, &["--duration=1s", "--timeout=60s"]);
    assert!(report["latency_us"]["max"].as_u64().unwrap() >= 500_000, "{report}");
    assert!(report.get("open_loop").is_none(), "{report}");
}

#[test]
fn requests_that_no_connection_is_free_for_are_counted_as_not_sent() {
    // Every write takes longer than the run and its timeout.
    let server = stalling_server(usize::MAX, Duration::from_secs(10));
    let report = bench(&server, &["--rate=1000", "--duration=100ms", "--timeout=1s"]);
    assert_eq!((&report["done"], &report["open_loop"]["due"]), (&0.into(), &100.into()));
    assert!(report["open_loop"]["not_sent"].as_u64().unwrap() > 90, "{report}");
}
