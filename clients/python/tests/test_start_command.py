"""`raft-kv-start`: started, left running, stopped."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from local_cluster import free_ports
from python_kv import KVStore, NetworkError, cli
from python_kv.duration import duration


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
    with pytest.raises(NetworkError) as raised:
        KVStore(url).is_leader()
    assert raised.value.outcome == "not_done"

    assert cli.main(flags) == 0
    assert KVStore(url).get("k") == ("v", True)


def start(flags):
    return subprocess.Popen(
        [sys.executable, "-m", "python_kv.cli"] + flags,
        cwd=Path(__file__).parent.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )


def test_another_cluster_on_the_ports_is_not_announced_as_ours(flags, tmp_path, request):
    """Nor is it disturbed by a start in its directory or on its ports."""
    assert cli.main(flags) == 0
    log = tmp_path / "data" / "cluster.log"
    said = log.read_text()

    # Both at once: the supervisor waits some seconds for ports and directories to become free.
    other = flags[:2] + [f"--data-dir={tmp_path / 'other'}"]
    request.addfinalizer(lambda: cli.main(other + ["--stop"]))
    on_its_ports = start(other)
    in_its_directory = start([f"--port={free_ports(1)}"] + flags[1:])
    out, error = on_its_ports.communicate(timeout=60)
    assert (on_its_ports.returncode, out) == (1, "")
    assert "in use" in error and "--port" in error
    out, error = in_its_directory.communicate(timeout=60)
    assert (in_its_directory.returncode, out) == (1, "")
    assert "held by another cluster" in error

    assert log.read_text().startswith(said)
    assert KVStore(f"localhost:{flags[0].split('=')[1]}").is_leader()


def test_a_wait_that_is_over_or_interrupted_leaves_nothing_running(
    flags, tmp_path, capsys, monkeypatch
):
    # It answers to nothing but the signal to stop.
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("RAFT_KV_BIN", str(program))
    pid = tmp_path / "pid"

    def is_running():
        try:
            os.kill(int(pid.read_text()), 0)
            return True
        except ProcessLookupError:
            return False

    assert cli.main(flags + ["--timeout=500ms"]) == 1
    assert "no leader within 0.5 s" in capsys.readouterr().err
    assert not is_running()

    def interrupted(*_):
        if pid.exists() and pid.read_text():
            assert is_running()
            raise KeyboardInterrupt

    pid.unlink()
    monkeypatch.setattr(cli, "_holder", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cli.main(flags)
    monkeypatch.undo()
    assert not is_running()


def test_settings_that_make_no_sense_are_named(flags, capsys):
    assert cli.main(["--nodes=99"] + [flags[0], flags[2]]) == 1
    assert "99" in capsys.readouterr().err


def test_durations_are_read_as_people_write_them(capsys):
    for text, seconds in (("10s", 10), ("10", 10), ("500ms", 0.5), ("2m", 120), ("1.5s", 1.5)):
        assert duration(text) == pytest.approx(seconds)
    for text in ("", "s", "0s", "-1s", "5h", "1 s", "nan", "inf", "1e3", "86401", "10S", "１s"):
        with pytest.raises(SystemExit) as raised:
            cli.main([f"--timeout={text}"])
        assert raised.value.code == 2
        assert "duration" in capsys.readouterr().err


def test_an_old_lock_file_makes_nobody_our_supervisor(tmp_path, capsys):
    (tmp_path / "cluster.lock").write_text(f"{os.getpid()}\n")
    assert cli.main(["--stop", f"--data-dir={tmp_path}"]) == 1
    assert "no cluster is running" in capsys.readouterr().err


def test_a_program_that_is_none_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("RAFT_KV_BIN", str(tmp_path / "nothing"))
    assert cli.main([f"--data-dir={tmp_path}"]) == 1
    assert "RAFT_KV_BIN" in capsys.readouterr().err

    monkeypatch.setenv("RAFT_KV_BIN", str(tmp_path))
    assert cli.main([f"--data-dir={tmp_path}"]) == 1
    assert "RAFT_KV_BIN" in capsys.readouterr().err


def test_the_package_that_is_built_is_the_one_of_the_repository():
    source = cli._source()
    if source is None:
        pytest.skip("not in the repository")
    manifest = (source / "kv" / "Cargo.toml").read_text()
    assert f'name = "{cli._PACKAGE}"' in manifest
