//! The `raft-kv` program as users run it: processes, files, sockets and signals.

use crate::local::{
    Cluster, PATIENCE, cluster_command, complaint, free_ports, get, scratch, signal, until,
    wait_until_gone,
};
use rustix::process::Signal;
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The exit code of a cluster that cannot start with its settings.
const CONFIGURATION: i32 = 78;
/// The exit code of a negative answer.
const NO: i32 = 1;

#[test]
fn what_was_put_is_read_swapped_and_deleted_through_any_node() {
    let (_scratch, data) = scratch();
    let cluster = Cluster::start(&data, free_ports(3));
    for node in 0..3 {
        let server = format!("--server={}", cluster.address(node));
        let run = |arguments: &[&str]| cluster.run(&[arguments, &[&server]].concat());
        let key = format!("a key/of node {node}");

        assert!(run(&["put", &key, "one"]).status.success());
        assert_eq!(run(&["get", &key]).stdout, b"one");
        assert_eq!(run(&["cas", &key, "wrong", "two"]).status.code(), Some(NO));
        assert!(run(&["cas", &key, "one", "two"]).status.success());
        assert_eq!(run(&["get", &key]).stdout, b"two");
        assert!(run(&["delete", &key]).status.success());
        assert_eq!(run(&["get", &key]).status.code(), Some(NO));
    }
}

#[test]
fn a_value_survives_byte_for_byte() {
    let (_scratch, data) = scratch();
    let cluster = Cluster::start(&data, free_ports(3));
    let bytes: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let file = data.join("value");
    fs::write(&file, &bytes).unwrap();
    let put = Command::new(crate::local::PROGRAM)
        .args(["put", "binary", "-", "--server", &cluster.servers()])
        .stdin(fs::File::open(&file).unwrap())
        .status()
        .unwrap();
    assert!(put.success());
    assert_eq!(cluster.run(&["get", "binary"]).stdout, bytes);
}

#[test]
fn a_node_that_is_down_is_passed_over() {
    let (_scratch, data) = scratch();
    let cluster = Cluster::start(&data, free_ports(3));
    let nobody = format!("127.0.0.1:{}", free_ports(1));
    let servers = format!("--server={nobody},{}", cluster.address(1));
    assert!(cluster.run(&["put", "k", "v", &servers]).status.success());

    let alone = cluster.run(&["get", "k", "--timeout=1", &format!("--server={nobody}")]);
    assert_eq!(alone.status.code(), Some(3));
    assert!(complaint(&alone).contains("not done"), "{}", complaint(&alone));
}

#[test]
fn status_shows_every_member_and_who_leads() {
    let (_scratch, data) = scratch();
    let cluster = Cluster::start(&data, free_ports(3));
    let status = cluster.run(&["status"]);
    let table = String::from_utf8(status.stdout).unwrap();
    for node in 0..3 {
        assert!(table.contains(&cluster.address(node).to_string()), "{table}");
    }
    assert_eq!(table.matches("leader").count(), 1, "{table}");
}

#[test]
fn all_nodes_killed_at_once_come_back_with_every_command_under_its_number() {
    let (_scratch, data) = scratch();
    let port = free_ports(3);
    let mut cluster = Cluster::start(&data, port);
    for n in 0..20 {
        assert!(cluster.run(&["put", &format!("key-{n}"), &format!("value-{n}")]).status.success());
    }
    let history = "/get_commits_since?since_index=-1";
    let before = get(cluster.address(cluster.leader()), history).unwrap();
    let pids = [0, 1, 2].map(|node| cluster.pid(node));
    signal(cluster.supervisor(), Signal::KILL);
    pids.into_iter().for_each(|pid| signal(pid, Signal::KILL));
    pids.into_iter().for_each(wait_until_gone);
    drop(cluster);

    let cluster = Cluster::start(&data, port);
    for n in 0..20 {
        assert_eq!(
            cluster.run(&["get", &format!("key-{n}")]).stdout,
            format!("value-{n}").as_bytes()
        );
    }
    for node in 0..3 {
        let after = get(cluster.address(node), history).unwrap();
        let commits = |text: &str| {
            let reply: serde_json::Value = serde_json::from_str(text).unwrap();
            reply["commits"].clone()
        };
        assert_eq!(commits(&after), commits(&before));
        assert_eq!(commits(&after).as_array().unwrap().len(), 20);
    }
}

#[test]
fn a_killed_leader_loses_no_acknowledged_write_and_writes_go_on() {
    let (_scratch, data) = scratch();
    let mut cluster = Cluster::start(&data, free_ports(3));
    let record = data.join("record");
    let mut bench = Command::new(crate::local::PROGRAM)
        .args(["bench", "--json", "--duration=3600s", "--clients=8", "--keys=1000"])
        .arg(format!("--server={}", cluster.servers()))
        .arg(format!("--record={}", record.display()))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let recorded = || fs::metadata(&record).map_or(0, |file| file.len());
    until("writes are acknowledged", || recorded() > 0);
    let leader = cluster.leader();
    signal(cluster.pid(leader), Signal::KILL);
    cluster.wait_for_line("signal 9");
    // At most 8 KiB of earlier acknowledgements are not in the file yet.
    let before = recorded();
    until("writes go on", || recorded() >= before + (32 << 10));
    bench.kill().unwrap();
    bench.wait().unwrap();
    // The last line may be incomplete.
    let lines = fs::read_to_string(&record).unwrap();
    fs::write(&record, &lines[..=lines.rfind('\n').unwrap()]).unwrap();
    let check = cluster.run(&["bench", "--check", &record.display().to_string()]);
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.status.success() && said.contains(": 0 lost"), "{said}{}", complaint(&check));
}

#[test]
#[cfg(target_os = "linux")]
fn a_result_that_cannot_be_printed_is_an_error_of_every_command() {
    let (_scratch, data) = scratch();
    let mut cluster = Cluster::spawn(&data, free_ports(1), 1);
    cluster.wait_until_it_serves();
    assert!(cluster.run(&["put", "hello", "world"]).status.success());
    let servers = cluster.servers();
    let on_a_full_disk = |arguments: &[&str]| {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        Command::new(crate::local::PROGRAM)
            .args(arguments)
            .env("RAFT_KV_SERVER", &servers)
            .stdin(Stdio::null())
            .stdout(full)
            .output()
            .unwrap()
    };
    let commands: [&[&str]; 7] = [
        &["get", "hello"],
        &["cas", "hello", "wrong", "new"],
        &["status"],
        &["status", "--json"],
        &["bench", "--duration=50ms", "--clients=1"],
        &["--help"],
        &["--version"],
    ];
    for arguments in commands {
        let output = on_a_full_disk(arguments);
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {}", complaint(&output));
        assert!(complaint(&output).contains("No space left"), "{}", complaint(&output));
    }
}

#[test]
fn a_closed_standard_input_is_no_empty_value() {
    let (_scratch, data) = scratch();
    let mut cluster = Cluster::spawn(&data, free_ports(1), 1);
    cluster.wait_until_it_serves();
    let put = |redirection: &str| {
        Command::new("sh")
            .arg("-c")
            .arg(format!("{} put k - {redirection}", crate::local::PROGRAM))
            .env("RAFT_KV_SERVER", cluster.servers())
            .output()
            .unwrap()
    };
    let refused = put("<&-");
    assert_eq!(refused.status.code(), Some(3));
    assert!(complaint(&refused).contains("standard input is closed"), "{}", complaint(&refused));
    assert_eq!(cluster.run(&["get", "k"]).status.code(), Some(NO), "nothing is stored");
    assert!(put("</dev/null").status.success());
    assert_eq!(cluster.run(&["get", "k"]).stdout, b"");
}

#[test]
fn a_record_without_writes_proves_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let record = scratch.path().join("record");
    fs::write(&record, "").unwrap();
    let check = Command::new(crate::local::PROGRAM)
        .args(["bench", "--check", &record.display().to_string()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(check.status.code(), Some(3));
    assert!(complaint(&check).contains("proves nothing"), "{}", complaint(&check));
}

#[test]
fn the_version_names_the_formats_on_the_disk_and_on_the_wire() {
    let version = Command::new(crate::local::PROGRAM).arg("--version").output().unwrap().stdout;
    let version = String::from_utf8(version).unwrap();
    let expected = format!(
        "(encoding {}, log {}, store {}, protocol {})\n",
        storage::codec::VERSION,
        storage::LOG_VERSION,
        kv::STORE_VERSION,
        transport_http::PROTOCOL_VERSION
    );
    assert!(version.ends_with(&expected), "{version}");
}

#[test]
fn settings_of_a_single_node_are_reported_by_a_cluster_that_ignores_them() {
    let (_scratch, data) = scratch();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, free_ports(1))).unwrap();
    let port = taken.local_addr().unwrap().port();
    let refused =
        cluster_command(&data, port).env("RAFT_KV_FAULT_INJECTION", "true").output().unwrap();
    let said = complaint(&refused);
    assert!(said.contains("RAFT_KV_FAULT_INJECTION in the environment has no effect"), "{said}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_limit_of_descriptors_that_is_too_low_is_named() {
    for arguments in ["cluster --data-dir=nowhere/a", "status"] {
        let output = Command::new("sh")
            .arg("-c")
            .arg(format!("ulimit -n 4; exec {} {arguments}", crate::local::PROGRAM))
            .output()
            .unwrap();
        assert!(!output.status.success());
        assert!(complaint(&output).contains("ulimit -n"), "{arguments}: {}", complaint(&output));
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_node_with_too_few_descriptors_for_its_own_files_does_not_start() {
    let (_scratch, data) = scratch();
    let port = free_ports(2);
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "ulimit -n 146; exec timeout 20 {} serve --bootstrap --id 0 --peers \
             0=127.0.0.1:{port}/127.0.0.1:{} --data-dir {}",
            crate::local::PROGRAM,
            port + 1,
            data.display()
        ))
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = complaint(&output);
    assert!(said.contains("limit on open files is 146") && said.contains("151"), "{said}");
    assert!(!data.exists(), "nothing was begun");
}

#[test]
fn a_log_that_cannot_be_written_is_named() {
    let (_scratch, data) = scratch();
    // A directory in the place of the log of node 0.
    fs::create_dir_all(data.join("node-0.log")).unwrap();
    let mut cluster = Cluster::spawn(&data, free_ports(3), 3);
    let line = cluster.wait_for_line("cannot be started");
    assert!(line.contains("node-0.log: Is a directory"), "{line}");
}

#[test]
fn a_lost_write_is_found_by_the_check() {
    let (_scratch, data) = scratch();
    let cluster = Cluster::start(&data, free_ports(3));
    let record = data.join("record");
    let record_flag = format!("--record={}", record.display());
    let bench =
        cluster.run(&["bench", "--duration=300ms", "--clients=2", "--keys=10", &record_flag]);
    assert!(bench.status.success(), "{}", complaint(&bench));
    let lines = fs::read_to_string(&record).unwrap();
    let key = lines.lines().next().unwrap().split(' ').next().unwrap();
    let key = key.strip_prefix("/v1/kv/").unwrap();
    assert!(cluster.run(&["delete", key]).status.success());

    let check = cluster.run(&["bench", "--check", &record.display().to_string()]);
    assert_eq!(check.status.code(), Some(NO));
    assert!(complaint(&check).contains(key), "{}", complaint(&check));
}

#[test]
fn the_successor_of_a_killed_leader_does_not_wait_for_an_election_timeout() {
    let (_scratch, data) = scratch();
    let mut cluster = Cluster::spawn_with(&data, free_ports(3), 3, |mut command| {
        command.arg("--election-timeout=30s");
        command
    });
    cluster.wait_until_it_serves();
    // A leader's stream to a node may open later than it leads.
    let is_ready =
        |id| get(cluster.address(id), "/readyz").is_some_and(|body| body.starts_with("ready"));
    until("all are ready", || (0..3).all(is_ready));
    let leader = cluster.leader();
    let pid = cluster.pid(leader);
    let killed = Instant::now();
    signal(pid, Signal::KILL);
    let leads = |id: &u16| {
        get(cluster.address(*id), "/is_leader").is_some_and(|body| body.contains("true"))
    };
    while !(0..3).filter(|id| *id != leader).any(|id| leads(&id)) {
        // Without a report of its end it would take 30 s at least.
        assert!(killed.elapsed() < Duration::from_secs(25), "no other node leads");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_crashed_node_is_started_again() {
    let (_scratch, data) = scratch();
    let mut cluster = Cluster::start(&data, free_ports(3));
    let leader = cluster.leader();
    let other = (leader + 1) % 3;
    signal(cluster.pid(other), Signal::KILL);
    let line = cluster.wait_for_line("signal 9");
    assert!(line.contains(&format!("node {other}")), "{line}");
    until("it comes back", || get(cluster.address(other), "/is_leader").is_some());
}

#[test]
#[cfg(target_os = "linux")]
fn a_cluster_whose_program_is_replaced_goes_on_with_its_own() {
    let (scratch, data) = scratch();
    let program = scratch.path().join("raft-kv");
    // By another process: this one may fork while it has the file open to write.
    assert!(
        Command::new("cp").arg(crate::local::PROGRAM).arg(&program).status().unwrap().success()
    );
    let mut cluster = Cluster::spawn_with(&data, free_ports(3), 3, |command| {
        let mut other = Command::new(&program);
        other.args(command.get_args());
        other
    });
    cluster.wait_until_it_serves();
    let replacement = scratch.path().join("raft-kv.new");
    fs::write(&replacement, "no program").unwrap();
    fs::rename(&replacement, &program).unwrap();
    let other = (cluster.leader() + 1) % 3;
    let pid = cluster.pid(other);
    let name = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert_eq!(name(pid), "raft-kv\n");
    signal(pid, Signal::KILL);
    cluster.wait_for_line("signal 9");
    until("it comes back", || get(cluster.address(other), "/is_leader").is_some());
}

#[test]
fn two_signals_at_once_stop_the_cluster_gracefully() {
    let (_scratch, data) = scratch();
    let mut cluster = Cluster::start(&data, free_ports(3));
    let (first, slow) = (cluster.pid(0), cluster.pid(1));
    // This node is still there when the second signal arrives.
    signal(slow, Signal::STOP);
    signal(cluster.supervisor(), Signal::TERM);
    signal(cluster.supervisor(), Signal::INT);
    wait_until_gone(first);
    signal(slow, Signal::CONT);
    assert_eq!(cluster.wait().code(), Some(0));
    for node in 0..3 {
        let log = fs::read_to_string(data.join(format!("node-{node}.log"))).unwrap();
        assert!(log.contains("stopping: asked to"), "node {node} was killed: {log}");
        assert!(!log.contains("second signal"), "{log}");
    }
}

#[test]
fn a_second_signal_later_kills_a_node_that_does_not_stop_and_the_exit_code_tells() {
    let (_scratch, data) = scratch();
    let mut cluster = Cluster::start(&data, free_ports(3));
    let stuck = cluster.pid(1);
    signal(stuck, Signal::STOP);
    signal(cluster.supervisor(), Signal::TERM);
    cluster.wait_for_line("Stopping.");
    let asked = Instant::now();
    // Signals until one counts, which is before the nodes would be killed without any.
    while crate::local::is_alive(cluster.supervisor()) && cluster.try_wait().is_none() {
        assert!(asked.elapsed() < PATIENCE, "the cluster does not end");
        signal(cluster.supervisor(), Signal::TERM);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(cluster.wait().code(), Some(70));
    assert!(!crate::local::is_alive(stuck));
}

#[test]
fn a_cluster_without_its_shape_is_started_only_as_it_was_made() {
    let (_scratch, data) = scratch();
    let (port, wrong) = (free_ports(3), free_ports(3));
    let mut cluster = Cluster::start(&data, port);
    assert!(cluster.run(&["put", "hello", "world"]).status.success());
    assert!(cluster.stop().success());
    fs::remove_file(data.join("cluster.toml")).unwrap();

    let refused = cluster_command(&data, wrong).stdin(Stdio::null()).output().unwrap();
    assert_eq!(refused.status.code(), Some(CONFIGURATION));
    let said = complaint(&refused);
    assert!(said.contains(&format!("--port {port} --nodes 3")), "{said}");
    assert!(!data.join("cluster.toml").exists());

    let mut cluster = Cluster::start(&data, port);
    assert_eq!(cluster.run(&["get", "hello"]).stdout, b"world");
    assert!(cluster.stop().success());
    let shape = fs::read_to_string(data.join("cluster.toml")).unwrap();
    assert!(shape.contains(&format!("port = {port}\n")), "{shape}");
}

#[test]
fn ctrl_c_stops_everything_and_a_second_start_has_the_data() {
    let (_scratch, data) = scratch();
    let port = free_ports(3);
    let mut cluster = Cluster::start(&data, port);
    assert!(cluster.run(&["put", "hello", "world"]).status.success());
    let pids = [0, 1, 2].map(|node| cluster.pid(node));
    assert_eq!(cluster.stop().code(), Some(0));
    assert!(pids.iter().all(|pid| !crate::local::is_alive(*pid)));

    let cluster = Cluster::start(&data, port);
    assert_eq!(cluster.run(&["get", "hello"]).stdout, b"world");
}

#[test]
fn nodes_do_not_outlive_a_killed_supervisor() {
    let (_scratch, data) = scratch();
    let mut cluster = Cluster::start(&data, free_ports(3));
    let pids = [0, 1, 2].map(|node| cluster.pid(node));
    signal(cluster.supervisor(), Signal::KILL);
    pids.into_iter().for_each(wait_until_gone);
}

#[test]
fn a_wiped_node_is_reported_with_the_way_out_and_the_others_serve() {
    let (_scratch, data) = scratch();
    let port = free_ports(3);
    let mut cluster = Cluster::start(&data, port);
    assert!(cluster.run(&["put", "hello", "world"]).status.success());
    assert!(cluster.stop().success());
    fs::remove_dir_all(data.join("node-2")).unwrap();

    let begun = Instant::now();
    let mut cluster = Cluster::start(&data, port);
    let line = cluster.wait_for_line("node 2 (pid");
    assert!(line.contains("cannot start") && line.contains("raft-kv members remove 2"), "{line}");
    assert_eq!(cluster.run(&["get", "hello"]).stdout, b"world");
    // The node is restarted repeatedly, and reported once, and again if it has run for a while.
    let log = data.join("node-2.log");
    let starts = || fs::read_to_string(&log).unwrap().matches("members remove 2").count();
    until("the third restart", || starts() >= 4);
    assert_eq!(cluster.run(&["get", "hello"]).stdout, b"world");
    let has_run_well = begun.elapsed() >= Duration::from_secs(10);
    assert!(has_run_well || cluster.lines_with("cannot start") <= 2);
}

#[test]
fn a_cluster_without_a_quorum_of_its_directories_is_refused() {
    let (_scratch, data) = scratch();
    let port = free_ports(3);
    let mut cluster = Cluster::start(&data, port);
    assert!(cluster.run(&["put", "hello", "world"]).status.success());
    assert!(cluster.stop().success());
    fs::remove_dir_all(data.join("node-1")).unwrap();
    fs::remove_dir_all(data.join("node-2")).unwrap();

    let refused = cluster_command(&data, port).stdin(Stdio::null()).output().unwrap();
    assert_eq!(refused.status.code(), Some(CONFIGURATION));
    let said = complaint(&refused);
    assert!(said.contains("node 2") && said.contains("raft-kv members remove 2"), "{said}");
    assert!(get(([127, 0, 0, 1], port).into(), "/is_leader").is_none(), "a node is left running");
}

#[test]
fn a_member_whose_port_is_taken_for_a_while_is_back_when_it_is_free() {
    let (_scratch, data) = scratch();
    let port = free_ports(3);
    let mut cluster = Cluster::start(&data, port);
    let other = (cluster.leader() + 1) % 3;
    // The node is paused first, so that it cannot take the port again before the test does.
    signal(cluster.pid(other), Signal::STOP);
    signal(cluster.pid(other), Signal::KILL);
    let deadline = Instant::now() + PATIENCE;
    let taken = loop {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port + other)) {
            Ok(taken) => break taken,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    };
    let line = cluster.wait_for_line("cannot start");
    assert!(line.contains(&format!("node {other}")) && line.contains("listen"), "{line}");
    assert!(cluster.run(&["put", "hello", "world"]).status.success());
    drop(taken);
    while get(cluster.address(other), "/is_leader").is_none() {
        assert!(Instant::now() < deadline, "node {other} does not come back");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_terminal_that_goes_away_stops_the_cluster_and_the_exit_code_tells() {
    let (_scratch, data) = scratch();
    let mut cluster = Cluster::start(&data, free_ports(3));
    let pids = [0, 1, 2].map(|node| cluster.pid(node));
    signal(cluster.supervisor(), Signal::HUP);
    assert_eq!(cluster.wait().code(), Some(129));
    assert!(pids.iter().all(|pid| !crate::local::is_alive(*pid)));
}

#[test]
#[cfg(target_os = "linux")]
fn a_cluster_under_nohup_goes_on_when_the_terminal_goes_away() {
    let (_scratch, data) = scratch();
    let mut cluster = Cluster::spawn_with(&data, free_ports(3), 3, |command| {
        let mut nohup = Command::new("nohup");
        nohup.arg(command.get_program()).args(command.get_args());
        nohup
    });
    cluster.wait_until_it_serves();
    let node = cluster.pid(0);
    signal(cluster.supervisor(), Signal::HUP);
    signal(node, Signal::HUP);
    assert!(cluster.run(&["put", "hello", "world"]).status.success());
    assert!(crate::local::is_alive(cluster.supervisor()) && crate::local::is_alive(node));
    // A supervisor that had taken the first signal would end with 129, and a node that had would
    // have been started again.
    assert_eq!(cluster.stop().code(), Some(0));
    assert_eq!(cluster.lines_with("node 0  http"), 1);
    assert_eq!(cluster.lines_with("node 0 (pid"), 0);
}

#[test]
fn a_port_in_use_does_not_bind_the_directory_to_it() {
    let (_scratch, data) = scratch();
    let port = free_ports(1);
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    let refused = cluster_command(&data, port).arg("--nodes=1").output().unwrap();
    assert_eq!(refused.status.code(), Some(CONFIGURATION));
    let mut other = Cluster::spawn(&data, free_ports(1), 1);
    other.wait_until_it_serves();
    drop(taken);
}

#[test]
fn a_port_in_use_is_named_and_nothing_is_started() {
    let (_scratch, data) = scratch();
    let port = free_ports(3);
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port + 1)).unwrap();
    let refused = cluster_command(&data, port).stdin(Stdio::null()).output().unwrap();
    assert_eq!(refused.status.code(), Some(CONFIGURATION));
    let said = complaint(&refused);
    assert!(said.contains(&format!("port {}", port + 1)) && said.contains("--port"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(get(([127, 0, 0, 1], port).into(), "/is_leader").is_none());
    drop(taken);
}

#[test]
fn a_port_that_only_a_connection_has_is_told_apart_from_one_that_is_listened_on() {
    let (_scratch, data) = scratch();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    // Nobody listens on the port of this end.
    let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let port = connection.local_addr().unwrap().port();
    let refused = cluster_command(&data, port).arg("--nodes=1").output().unwrap();
    assert_eq!(refused.status.code(), Some(CONFIGURATION));
    let said = complaint(&refused);
    assert!(said.contains("TIME-WAIT") && said.contains("ip_local_port_range"), "{said}");

    let refused = Command::new(crate::local::PROGRAM)
        .args(["serve", "--id=0", "--bootstrap"])
        .arg(format!("--peers=0=127.0.0.1:{}/127.0.0.1:{port}", free_ports(1)))
        .arg(format!("--data-dir={}", data.display()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(CONFIGURATION));
    assert!(complaint(&refused).contains("TIME-WAIT"), "{}", complaint(&refused));
    drop(connection);
}

#[test]
fn a_directory_held_by_another_cluster_is_refused() {
    let (_scratch, data) = scratch();
    let port = free_ports(1);
    let mut first = Cluster::spawn(&data, port, 1);
    first.wait_until_it_serves();
    let second = cluster_command(&data, free_ports(1)).arg("--nodes=1").output().unwrap();
    assert_eq!(second.status.code(), Some(CONFIGURATION));
    let said = complaint(&second);
    assert!(said.contains("held") && said.contains(&first.supervisor().to_string()), "{said}");
}

#[test]
fn a_node_directory_held_by_a_single_node_is_refused() {
    let (_scratch, data) = scratch();
    let (port, other) = (free_ports(1), free_ports(1));
    let mut first = Cluster::spawn(&data, port, 1);
    first.wait_until_it_serves();
    let second = Command::new(crate::local::PROGRAM)
        .args(["serve", "--id=0", "--bootstrap"])
        .arg(format!("--peers=0=127.0.0.1:{other}/127.0.0.1:{}", other + 1000))
        .arg(format!("--data-dir={}", data.join("node-0").display()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(CONFIGURATION));
    assert!(complaint(&second).contains("node-0"), "{}", complaint(&second));
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let (_scratch, data) = scratch();
    fs::write(&data, "a file in its place").unwrap();
    let refused = cluster_command(&data, free_ports(3)).output().unwrap();
    assert_eq!(refused.status.code(), Some(CONFIGURATION));
    let said = complaint(&refused);
    assert!(said.contains(&data.display().to_string()) && said.contains("--data-dir"), "{said}");
}

#[test]
fn a_node_without_a_directory_of_its_own_says_how_to_begin() {
    let (_scratch, data) = scratch();
    let port = free_ports(1);
    let refused = Command::new(crate::local::PROGRAM)
        .args(["serve", "--id=0"])
        .arg(format!("--peers=0=127.0.0.1:{port}/127.0.0.1:{}", port + 1000))
        .arg(format!("--data-dir={}", data.display()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(CONFIGURATION));
    let said = complaint(&refused);
    assert!(said.contains("--bootstrap") && said.contains("--join"), "{said}");
}
