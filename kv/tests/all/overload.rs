//! More requests than a node can serve. It serves some, refuses the rest, and stays leader.

use crate::local::serve::{Members, ask};
use crate::local::{free_ports, scratch};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The duration of the load.
const LOAD: Duration = Duration::from_secs(4);
/// The number of operations of a batch that is far above the limit and is refused.
const OPERATIONS: usize = 600_000;
/// The number of clients that post such batches, and of clients that list the whole history.
const BATCH_CLIENTS: usize = 8;
const LISTING_CLIENTS: usize = 16;
/// Nine in ten health requests are answered within this time. On an idle machine they take a
/// millisecond.
const HEALTH_TIME: Duration = Duration::from_millis(100);

#[test]
fn large_batches_and_long_listings_cost_no_election() {
    let (_scratch, data) = scratch();
    let mut members = Members::new(&data, free_ports(3));
    // The default timeout, which is shorter than that of other tests.
    let timeout = "--election-timeout=300ms";
    members.start(0, Stdio::inherit(), &["--campaign-at-start", "--log=warn", timeout]);
    members.start(1, Stdio::inherit(), &["--log=warn", timeout]);
    members.start(2, Stdio::inherit(), &["--log=warn", timeout]);
    members.wait_for_leader(0);
    members.wait_for_followers(0);
    let leader = members.address(0);
    for n in 0..20 {
        let answer = ask(leader, "PUT", &format!("/v1/kv/{n}"), &[b'x'; 500_000]);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let term = members.metric(0, "raft_term");

    let operation = r#"{"op":"put","key":"a","value":"1"}"#;
    let batch = format!("{{\"operations\":[{}]}}", vec![operation; OPERATIONS].join(","));
    let over = AtomicBool::new(false);
    let mut times = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..BATCH_CLIENTS {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let answer = ask(leader, "POST", "/v1/batch", batch.as_bytes());
                    // 429: the bodies of other requests use up the memory budget.
                    let refused = ["HTTP/1.1 413", "HTTP/1.1 429"];
                    assert!(refused.iter().any(|status| answer.starts_with(status)), "{answer}");
                }
            });
        }
        for _ in 0..LISTING_CLIENTS {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    ask(leader, "GET", "/get_commits_since", b"");
                }
            });
        }
        let began = Instant::now();
        while began.elapsed() < LOAD {
            let asked = Instant::now();
            let answer = ask(leader, "GET", "/is_leader", b"");
            times.push(asked.elapsed());
            if !answer.contains("true") {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(members.metric(0, "raft_term"), term, "there was an election");
    times.sort();
    let slow = times[times.len() * 9 / 10];
    assert!(slow < HEALTH_TIME, "is_leader takes {slow:?}");
    println!("is_leader takes {slow:?}, at most {:?}", times.last());
}
