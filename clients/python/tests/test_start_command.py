"""`raft-kv-start`: started, left running, stopped."""

import os
import socket

import pytest

from local_cluster import free_ports
from python_kv import KVStore, cli


@pytest.fixture
def flags(tmp_path):
    """Of a small cluster that is stopped in the end, whatever the test did."""
    flags = [f"--port={free_ports(1)}", "--nodes=1", f"--data-dir={tmp_path / 'data'}"]
    yield flags
    cli.main(flags + ["--stop"])


def test_a_cluster_is_left_running_and_can_be_stopped(flags, capsys):
    assert cli.main(flags) == 0
    said = capsys.readouterr().out
    url = said.split("KVStore('")[1].split("'")[0]
    assert KVStore(url).put("k", "v") == (None, False)

    assert cli.main(flags + ["--stop"]) == 0
    with pytest.raises(Exception):
        KVStore(url).is_leader()

    assert cli.main(flags) == 0
    assert KVStore(url).get("k") == ("v", True)


def test_a_second_cluster_in_the_same_directory_is_refused(flags, capsys):
    assert cli.main(flags) == 0
    second = [f"--port={free_ports(1)}"] + flags[1:]
    assert cli.main(second) == 1
    assert "held by another cluster" in capsys.readouterr().err


def test_a_port_in_use_is_named(flags, capsys):
    taken = socket.create_server(("127.0.0.1", int(flags[0].split("=")[1])))
    with taken:
        assert cli.main(flags) == 1
    said = capsys.readouterr().err
    assert "in use" in said and "--port" in said


def test_an_old_lock_file_makes_nobody_our_supervisor(tmp_path, capsys):
    (tmp_path / "cluster.lock").write_text(f"{os.getpid()}\n")
    assert cli.main(["--stop", f"--data-dir={tmp_path}"]) == 1
    assert "no cluster is running" in capsys.readouterr().err


def test_a_program_that_is_none_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("RAFT_KV_BIN", str(tmp_path / "nothing"))
    assert cli.main([f"--data-dir={tmp_path}"]) == 1
    assert "RAFT_KV_BIN" in capsys.readouterr().err
