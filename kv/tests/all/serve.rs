//! Nodes as an operator starts them with `raft-kv serve`: lists of peers, listeners and log.

use crate::local::{PATIENCE, PEER_PORT_OFFSET, free_ports, until};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
const CONFIGURATION: i32 = 78;

/// A running `raft-kv serve`. Killed on drop.
pub struct Node {
    process: Child,
    log: std::path::PathBuf,
}

impl Node {
    pub fn start(directory: &Path, id: u64, peers: &str, more: &[&str]) -> Node {
        Node::begin("--bootstrap", directory, id, peers, more)
    }

    fn begin(how: &str, directory: &Path, id: u64, peers: &str, more: &[&str]) -> Node {
        let log = directory.join(format!("{id}.log"));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_raft-kv"))
            .args(["serve", how])
            .env("RAFT_KV_ELECTION_TIMEOUT", "1s")
            .arg(format!("--id={id}"))
            .arg(format!("--peers={peers}"))
            .arg(format!("--data-dir={}", directory.join(id.to_string()).display()))
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        Node { process, log }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn warnings(&self) -> Vec<String> {
        let log = self.log();
        log.lines().filter(|line| line.contains("WARN")).map(str::to_owned).collect()
    }

    /// Waits for the end of the process, and returns its exit code.
    fn end(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn stop(&mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.end()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Entries for `--peers`, with free ports.
pub fn peers(count: usize) -> Vec<String> {
    let port = free_ports(count as u16);
    let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    (0..count as u16)
        .map(|id| {
            let (client, peer) = (port + id, port + id + PEER_PORT_OFFSET);
            format!("{id}={}/{}", address(client), address(peer))
        })
        .collect()
}

pub fn client_address(peer: &str) -> SocketAddr {
    peer.split(['=', '/']).nth(1).unwrap().parse().unwrap()
}

fn request(address: SocketAddr, head: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "{head}\r\n\r\n").ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).ok()?;
    Some(reply)
}

pub fn leads(peer: &str) -> bool {
    let reply = request(client_address(peer), "GET /is_leader HTTP/1.0");
    reply.is_some_and(|reply| reply.contains("true"))
}

#[test]
fn a_node_that_is_stopped_while_it_waits_for_its_peers_says_so() {
    let scratch = tempfile::tempdir().unwrap();
    let mut node = Node::start(scratch.path(), 0, &peers(3).join(","), &[]);
    until("it listens for peers", || node.log().contains("listening for peers"));
    assert_eq!(node.stop(), Some(0), "{}", node.log());
    assert!(node.log().contains("stopping: asked to"), "{}", node.log());
}

#[test]
fn founders_with_different_lists_found_no_two_clusters_whatever_the_order() {
    for first in [0, 1, 2] {
        let scratch = tempfile::tempdir().unwrap();
        let all = peers(3);
        let list = |id: usize| if id == 1 { all[..2].join(",") } else { all.join(",") };
        let mut nodes = Vec::new();
        for id in [first, (first + 1) % 3, (first + 2) % 3] {
            nodes.push(Node::start(scratch.path(), id as u64, &list(id), &[]));
            let node = nodes.last_mut().unwrap();
            until("it listens, or has ended", || {
                TcpStream::connect(client_address(&all[id])).is_ok()
                    || node.process.try_wait().unwrap().is_some()
            });
        }
        // Node 2 may start after the two with different lists have ended. It then waits for them.
        for node in nodes.iter_mut().filter(|node| !node.log.ends_with("2.log")) {
            assert_eq!(node.end(), Some(CONFIGURATION), "{}", node.log());
            let log = node.log();
            assert!(log.contains(&all[..2].join(",")), "{log}");
            assert!(log.contains(&all[2]) && log.contains("same list"), "{log}");
        }
        assert!(!leads(&all[2]), "{}", nodes[2].log());
        drop(nodes);
        // With corrected lists all nodes start. No data has to be removed, because no node has
        // announced anything to another.
        let mut nodes: Vec<Node> =
            (0..3).map(|id| Node::start(scratch.path(), id, &all.join(","), &[])).collect();
        until("a node leads", || all.iter().any(|peer| leads(peer)));
        for node in &mut nodes {
            assert_eq!(node.stop(), Some(0));
        }
    }
}

#[test]
fn a_founder_on_its_own_and_two_that_count_on_it_are_not_two_clusters() {
    let scratch = tempfile::tempdir().unwrap();
    let all = peers(3);
    let alone = Node::start(scratch.path(), 1, &all[1], &[]);
    until("it leads", || leads(&all[1]));
    let mut others =
        [0, 2].map(|id| Node::start(scratch.path(), id, &all.join(","), &["--campaign-at-start"]));
    for node in &mut others {
        assert_eq!(node.end(), Some(CONFIGURATION), "{}", node.log());
        let log = node.log();
        assert!(log.contains(&all.join(",")) && log.contains(&all[1]), "{log}");
    }
    until("it reports both lists", || {
        let log = alone.log();
        log.contains(&all.join(",")) && log.contains("ERROR")
    });
}

#[test]
fn a_restart_with_other_peers_than_the_members_warns_and_names_both() {
    let scratch = tempfile::tempdir().unwrap();
    let (first, second) = (peers(1), peers(1));
    let mut node = Node::start(scratch.path(), 0, &first[0], &[]);
    until("it leads", || leads(&first[0]));
    assert_eq!(node.stop(), Some(0));
    assert!(!node.log().contains("WARN"), "a healthy start has no warning: {}", node.log());
    let node = Node::start(scratch.path(), 0, &second[0], &[]);
    until("it leads", || leads(&second[0]));
    let log = node.log();
    let warning = log.lines().find(|line| line.contains("WARN")).expect("a warning");
    assert!(warning.contains(&first[0]) && warning.contains(&second[0]), "{warning}");
}

/// Runs a client command. Returns its exit code and all that it prints.
fn command(peer: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_raft-kv"))
        .args(arguments)
        .args(["--timeout", "20s", "--server", &client_address(peer).to_string()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let printed = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code(), printed.concat())
}

fn is_ready(peer: &str) -> bool {
    let reply = request(client_address(peer), "GET /readyz HTTP/1.0");
    reply.is_some_and(|reply| reply.contains("200 OK"))
}

#[test]
fn a_node_that_joins_says_what_it_waits_for_and_starts_again_without_a_warning() {
    let scratch = tempfile::tempdir().unwrap();
    let all = peers(2);
    let mut alone = Node::begin("--join", scratch.path(), 1, &all[1], &[]);
    assert_eq!(alone.end(), Some(CONFIGURATION));
    assert!(alone.log().contains("lists only node 1 itself"), "{}", alone.log());

    let first = Node::start(scratch.path(), 0, &all[0], &[]);
    until("it leads", || leads(&all[0]));
    let start = |more: &[&str]| Node::begin("--join", scratch.path(), 1, &all.join(","), more);
    let mut joins = start(&[]);
    let add = format!("raft-kv members add {}", all[1]);
    let waits = |head: &str| {
        let reply = request(client_address(&all[1]), head).unwrap_or_default();
        let named = format!("waits to be added as a member to the cluster of {}", all[0]);
        reply.contains("503") && reply.contains(&named) && reply.contains(&add)
    };
    until("it says that it waits", || {
        waits("GET /readyz HTTP/1.0") && waits("GET /v1/cluster HTTP/1.0")
    });
    until("its log says so too", || joins.log().contains(&add));
    let add = ["members", "add", &all[1]];
    let (code, printed) = command(&all[0], &add);
    assert!(code == Some(0) && !printed.contains("unchanged"), "{code:?} {printed}");
    let (code, printed) = command(&all[0], &add);
    assert!(code == Some(0) && printed.contains("unchanged"), "{code:?} {printed}");

    // The flags still name one of the members.
    until("it is ready", || is_ready(&all[1]));
    assert_eq!(joins.stop(), Some(0));
    let warned = |node: &Node| node.warnings();
    assert_eq!(warned(&joins), [""; 0], "a healthy start has no warning");
    let mut again = start(&[]);
    until("it is ready", || is_ready(&all[1]));
    assert_eq!(warned(&again), [""; 0], "nor has a restart");

    // Without a majority, the members that do not answer are named.
    assert_eq!(again.stop(), Some(0));
    until("it is noticed", || !leads(&all[0]));
    for name in ["members", "status"] {
        let (code, printed) = command(&all[0], &[name]);
        let named =
            printed.contains(&format!("no answer from node 1 ({})", client_address(&all[1])));
        assert!(code == Some(3) && named, "{code:?} {printed}");
    }

    // Settings of time that differ, and a listener that the others do not reach.
    let before = first.warnings().len();
    let elsewhere = peers(1)[0].rsplit('/').next().unwrap().to_owned();
    let listen = format!("--peer-listen={elsewhere}");
    let again = start(&["--election-timeout=2s", &listen]);
    let has = |node: &Node, parts: [&str; 2]| {
        node.warnings().iter().any(|line| parts.iter().all(|part| line.contains(part)))
    };
    let own = all[1].rsplit('/').next().unwrap();
    until("the addresses are named", || has(&again, [&elsewhere, own]));
    until("the settings are named", || has(&first, ["2000 ms", "1000 ms"]));
    let settings = first.warnings().into_iter().skip(before);
    assert_eq!(settings.filter(|line| line.contains("election timeout")).count(), 1);
}

#[test]
fn other_machines_reach_a_listener_only_if_the_operator_says_so() {
    let scratch = tempfile::tempdir().unwrap();
    let list = peers(1);
    for (flag, users) in [("--listen=0.0.0.0:0", "clients"), ("--peer-listen=[::]:0", "peers")] {
        let mut node = Node::start(scratch.path(), 0, &list[0], &[flag]);
        assert_eq!(node.end(), Some(CONFIGURATION));
        let log = node.log();
        assert!(log.contains("--insecure") && log.contains(users) && log.contains("TLS"), "{log}");
    }
    let port = client_address(&list[0]).port();
    let flag = format!("--listen=0.0.0.0:{port}");
    let _node = Node::start(scratch.path(), 0, &list[0], &[&flag, "--insecure"]);
    until("it leads", || leads(&list[0]));
}

#[test]
fn one_address_for_clients_and_peers_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let list = peers(1);
    let address = client_address(&list[0]);
    let flags = [format!("--listen={address}"), format!("--peer-listen={address}")];
    let mut node = Node::start(scratch.path(), 0, &list[0], &[&flags[0], &flags[1]]);
    assert_eq!(node.end(), Some(CONFIGURATION));
    let log = node.log();
    assert!(log.contains(&format!("{address} is given for clients and for peers")), "{log}");
}

#[test]
fn a_name_that_is_none_of_the_cluster_is_admitted_only_if_given() {
    let scratch = tempfile::tempdir().unwrap();
    let list = peers(1);
    let address = client_address(&list[0]);
    let status = |path: &str, host: &str| {
        let reply = request(address, &format!("GET {path} HTTP/1.0\r\nhost: {host}")).unwrap();
        (reply.split(' ').nth(1).unwrap().to_owned(), reply)
    };
    let node = Node::start(scratch.path(), 0, &list[0], &["--hosts=store.example,other.example"]);
    until("it leads", || leads(&list[0]));
    for path in ["/get_commits_since", "/is_leader", "/v1/cluster", "/metrics"] {
        let (code, reply) = status(path, "evil.example");
        assert!(code == "403" && reply.contains("--hosts"), "{path}: {reply}");
        for host in ["store.example", "OTHER.example:80", "localhost:1", &address.to_string()] {
            assert_eq!(status(path, host).0, "200", "{path} {host}");
        }
    }
    assert_eq!(status("/healthz", "probe.example").0, "200");
    drop(node);
    let _node = Node::start(scratch.path(), 0, &list[0], &["--hosts=*"]);
    until("it leads", || leads(&list[0]));
    assert_eq!(status("/get_commits_since", "any.example").0, "200");
}

#[test]
fn a_name_that_cannot_be_looked_up_is_reported_as_that() {
    let scratch = tempfile::tempdir().unwrap();
    let own = peers(1);
    let list = format!("{},1=nowhere.invalid:8080/nowhere.invalid:9080", own[0]);
    let node = Node::start(scratch.path(), 0, &list, &[]);
    until("it is reported", || node.log().contains("name look-up failed"));
    let log = node.log();
    assert!(log.contains("nowhere.invalid:9080") && log.contains("node 1"), "{log}");
}

/// RLIMIT_NPROC counts the threads of a user, and does not bind root: so each limit has a user of
/// its own, which only root can become.
#[test]
#[cfg(target_os = "linux")]
fn a_node_that_may_not_start_its_threads_says_so_and_exits() {
    let id = Command::new("id").arg("-u").output().unwrap();
    let tools = ["setpriv", "prlimit"];
    let has = |tool: &&str| Command::new(tool).arg("--version").output().is_ok();
    if id.stdout.trim_ascii() != b"0" || !tools.iter().all(has) {
        eprintln!("skipped: this test needs root, setpriv and prlimit");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    // The other user has to reach the program.
    let program = directory.path().join("raft-kv");
    std::fs::copy(env!("CARGO_BIN_EXE_raft-kv"), &program).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(directory.path(), open).unwrap();
    for limit in 1..=12 {
        let user = 740_000 + limit;
        let output = Command::new("setpriv")
            .args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".into()])
            .args(["prlimit".into(), format!("--nproc={limit}:{limit}")])
            .arg(&program)
            .args(["serve", "--bootstrap", "--id=0", "--peers=0=127.0.0.1:1/127.0.0.1:2"])
            .arg(format!("--data-dir={}", directory.path().join(limit.to_string()).display()))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(CONFIGURATION), "{limit}: {text}");
        assert!(text.starts_with("raft-kv: cannot start a thread: "), "{limit}: {text}");
        assert!(text.contains("ulimit -u") && text.lines().count() == 1, "{limit}: {text}");
    }
}

#[test]
fn only_so_many_declarations_of_members_are_checked_at_a_time() {
    let scratch = tempfile::tempdir().unwrap();
    let peers = peers(1);
    let _node = Node::start(scratch.path(), 0, &peers[0], &[]);
    until("it leads", || leads(&peers[0]));
    let address = client_address(&peers[0]);
    // It accepts connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (own, peer) = peers[0].split_once('/').unwrap();
    let own = own.trim_start_matches("0=");
    let body = format!(
        r#"{{"members":[{{"id":0,"client":"{own}","peer":"{peer}","role":"voter"}},
        {{"id":1,"client":"127.0.0.1:1","peer":"{}","role":"voter"}}]}}"#,
        silent.local_addr().unwrap()
    );
    let head = format!(
        "PUT /v1/cluster/members HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let asked: Vec<_> = (0..6)
        .map(|_| {
            let head = head.clone();
            std::thread::spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.write_all(head.as_bytes()).unwrap();
                let mut reply = String::new();
                stream.read_to_string(&mut reply).unwrap();
                reply
            })
        })
        .collect();
    // Meanwhile others that ask no node are answered at once.
    let declare = |members: &str| {
        let body = format!(r#"{{"members":[{members}]}}"#);
        let mut stream = TcpStream::connect(address).unwrap();
        let length = body.len();
        write!(
            stream,
            "PUT /v1/cluster/members HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    };
    let member = |id: u64, client: &str, peer: &str| {
        format!(r#"{{"id":{id},"client":"{client}","peer":"{peer}","role":"voter"}}"#)
    };
    std::thread::sleep(Duration::from_millis(500));
    let as_it_is = declare(&member(0, own, peer));
    assert!(as_it_is.starts_with("HTTP/1.1 200 "), "{as_it_is}");
    let many = (0..65).map(|id| {
        member(id, &format!("127.0.0.1:{}", 2 * id + 1), &format!("127.0.0.1:{}", 2 * id + 2))
    });
    let too_many = declare(&many.collect::<Vec<_>>().join(","));
    assert!(too_many.starts_with("HTTP/1.1 400 "), "{too_many}");
    assert!(too_many.contains("a cluster has at most 64"), "{too_many}");
    assert!(asked.iter().any(|asked| !asked.is_finished()), "they are still being checked");
    let replies: Vec<String> = asked.into_iter().map(|asked| asked.join().unwrap()).collect();
    let refused = replies.iter().filter(|reply| reply.starts_with("HTTP/1.1 429 ")).count();
    assert_eq!(refused, 2, "{replies:#?}");
}
