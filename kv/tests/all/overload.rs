//! More requests than a node can serve. It serves some, refuses the rest, and stays leader.

use crate::local::serve::{Members, ask};
use crate::local::{SetOnDrop, free_ports, scratch};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The load lasts until this many health requests and this many batches are answered.
const HEALTH_ANSWERS: usize = 200;
const BATCH_ANSWERS: usize = 2 * BATCH_CLIENTS;
/// The number of operations of a batch that is far above the limit and is refused.
const OPERATIONS: usize = 600_000;
/// The number of clients that post such batches, and of clients that list the whole history.
const BATCH_CLIENTS: usize = 8;
const LISTING_CLIENTS: usize = 16;

#[test]
fn large_batches_and_long_listings_cost_no_election() {
    let (_scratch, data) = scratch();
    let mut members = Members::new(&data, free_ports(3));
    // Only a node that holds up its own heartbeats loses the lead within this time, however busy
    // the machine is.
    let timeout = "--election-timeout=3s";
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
    let batches = AtomicUsize::new(0);
    let mut health = 0;
    std::thread::scope(|scope| {
        let stop = SetOnDrop(&over);
        for _ in 0..BATCH_CLIENTS {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let answer = ask(leader, "POST", "/v1/batch", batch.as_bytes());
                    // 429: the bodies of other requests use up the memory budget.
                    let refused = ["HTTP/1.1 413", "HTTP/1.1 429"];
                    let is_refused = refused.iter().any(|status| answer.starts_with(status));
                    over.fetch_or(!is_refused, Ordering::Relaxed);
                    assert!(is_refused, "{answer}");
                    batches.fetch_add(1, Ordering::Relaxed);
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
        // A health request that is not answered within 20 s ends the load.
        while !over.load(Ordering::Relaxed)
            && (health < HEALTH_ANSWERS || batches.load(Ordering::Relaxed) < BATCH_ANSWERS)
            && ask(leader, "GET", "/is_leader", b"").contains("true")
        {
            health += 1;
        }
        drop(stop);
    });
    assert_eq!(members.metric(0, "raft_term"), term, "there was an election");
    assert!(health >= HEALTH_ANSWERS, "a health request was not answered while it led");
}
