"""``raft-kv-start``: a local cluster, started and left running.

It builds the ``raft-kv`` program where cargo and its source are at hand, starts ``raft-kv cluster``
in the background, and returns when a leader serves.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import List, Optional

from .duration import duration
from .errors import NetworkError
from .kvstore import KVStore

#: How long the cluster may take to stop, in seconds: longer than its supervisor waits for nodes.
_STOP_TIMEOUT = 20.0
#: Pause between two looks, in seconds.
_POLL_PAUSE = 0.1
#: The line of the supervisor about a node of its own that leads.
_ANNOUNCED = re.compile(r"^ *node \d+  http://.*  leader$", re.MULTILINE)


class StartError(Exception):
    """Why there is no cluster; the message says what to do."""


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.stop:
            return _stop(options.data_dir)
        command = _cluster_command(find_program(), options)
        if options.foreground:
            os.execv(command[0], command)
        return _start(command, options)
    except (StartError, OSError) as error:
        print(f"raft-kv-start: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="raft-kv-start",
        description="Start a local raft-kv cluster and leave it running.",
        epilog="RAFT_KV_BIN names the raft-kv program; without it, it is built with cargo "
        "from the source around this package, or looked for in PATH.",
    )
    parser.add_argument("--port", type=int, default=8080, help="client port of node 0 (8080)")
    parser.add_argument("--nodes", type=int, default=3, help="how many nodes (3)")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path("raft-kv-data"),
        help="where the data goes (./raft-kv-data)",
    )
    parser.add_argument(
        "--fault-injection", action="store_true", help="let clients cut links between nodes"
    )
    parser.add_argument(
        "--timeout",
        type=duration,
        default=60.0,
        metavar="DURATION",
        help="how long to wait until a leader serves, as 10s, 500ms or 2m (60s)",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--stop", action="store_true", help="stop the cluster of --data-dir")
    how.add_argument("--foreground", action="store_true", help="stay, until Ctrl-C")
    return parser


def find_program() -> str:
    """The path of the ``raft-kv`` program, built first where that is possible."""
    given = os.environ.get("RAFT_KV_BIN")
    if given:
        if not os.path.isfile(given) or not os.access(given, os.X_OK):
            raise StartError(f"RAFT_KV_BIN={given}: not a program")
        return os.path.abspath(given)
    source = _source()
    if source and shutil.which("cargo"):
        return _build(source)
    installed = shutil.which("raft-kv")
    if installed:
        return installed
    raise StartError(
        "no raft-kv program: install Rust (https://rustup.rs) and run this from a clone of the "
        "repository, or name the program in RAFT_KV_BIN"
    )


def _source() -> Optional[Path]:
    """The root of the repository around this package, or else around the current directory."""
    for start in (Path(__file__).resolve(), Path.cwd() / "any"):
        for folder in start.parents:
            if (folder / "Cargo.toml").is_file() and (folder / "kv" / "Cargo.toml").is_file():
                return folder
    return None


# The package of the repository that has the program.
_PACKAGE = "quorate-kv"


def _build(source: Path) -> str:
    print("Building raft-kv (the first time takes some minutes) ...", flush=True)
    command = ["cargo", "build", "--release", "-p", _PACKAGE, "--bin", "raft-kv"]
    built = subprocess.run(
        command + ["--message-format=json-render-diagnostics"],
        cwd=source,
        stdout=subprocess.PIPE,
        universal_newlines=True,
    )
    if built.returncode != 0:
        raise StartError("the build failed: see above")
    # Cargo itself says where the program is: the target directory is configurable.
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "raft-kv":
            return str(message["executable"])
    raise StartError("cargo did not say where it put the program")


def _cluster_command(program: str, options: argparse.Namespace) -> List[str]:
    command = [
        program,
        "cluster",
        f"--port={options.port}",
        f"--nodes={options.nodes}",
        f"--data-dir={options.data_dir}",
    ]
    if options.fault_injection:
        command.append("--fault-injection")
    return command


def _start(command: List[str], options: argparse.Namespace) -> int:
    options.data_dir.mkdir(parents=True, exist_ok=True)
    log_path = options.data_dir / "cluster.log"
    # Appended to: if another cluster holds the directory, the log is that one's. A supervisor
    # writes a few lines a start.
    with open(log_path, "ab") as log:
        offset = log.seek(0, os.SEEK_END)
        # A session of its own: the end of this terminal is not the end of the cluster.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        leader = _wait_for_leader(process, options, log_path, offset)
    except BaseException:
        # Ctrl-C too: a cluster that was not announced is not left behind.
        _end(process)
        raise
    for node in range(options.nodes):
        mark = "  leader" if node == leader else ""
        print(f"node {node}  http://localhost:{options.port + node}{mark}")
    print("\nThe cluster is running:")
    print("  from python_kv import KVStore")
    print(f"  kv = KVStore('http://localhost:{options.port + leader}', server_id={leader})")
    print(f"\nStop it with: raft-kv-start --stop --data-dir {options.data_dir}")
    return 0


def _wait_for_leader(
    process: "subprocess.Popen[bytes]", options: argparse.Namespace, log_path: Path, offset: int
) -> int:
    deadline = time.monotonic() + options.timeout
    while time.monotonic() < deadline:
        # Looked at before its output: what a process that has ended wrote is complete.
        ended = process.poll() is not None
        with open(log_path, "rb") as log:
            log.seek(offset)
            said = log.read().decode(errors="replace")
        if ended:
            raise StartError(f"the cluster does not start: {_complaint(said, process.returncode)}")
        # A leader that answers on these ports may belong to another cluster, which our supervisor
        # will find there in a moment. It announces its nodes only after it had the ports and the
        # directory for itself.
        if _holder(options.data_dir) == process.pid and _ANNOUNCED.search(said):
            for node in range(options.nodes):
                if _leads(options.port + node):
                    return node
        time.sleep(_POLL_PAUSE)
    raise StartError(f"no leader within {options.timeout:g} s: see {options.data_dir}/*.log")


def _complaint(said: str, status: int) -> str:
    lines = said.strip().splitlines()
    complaints = [line for line in lines if line.startswith(("raft-kv: ", "error: "))]
    return (complaints or lines or [f"exit status {status}"])[-1]


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _leads(port: int) -> bool:
    try:
        return KVStore(f"http://127.0.0.1:{port}").is_leader()
    except NetworkError:
        return False


def _holder(data_dir: Path) -> Optional[int]:
    """The process id of the supervisor that holds the directory, if one does.

    The lock is what counts: the number in the file is the holder's only while the lock is held, so
    an old file never makes us take a stranger for our supervisor.
    """
    import fcntl  # Not on every system that can use the rest of this package.

    try:
        lock = open(data_dir / "cluster.lock")
    except FileNotFoundError:
        return None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            text = lock.read().strip()
            return int(text) if text.isdigit() else None
        return None


def _stop(data_dir: Path) -> int:
    pid = _holder(data_dir)
    if pid is None:
        raise StartError(f"no cluster is running in {data_dir}")
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT
    while _holder(data_dir) == pid:
        if time.monotonic() > deadline:
            raise StartError(
                f"the cluster (process {pid}) does not stop within {_STOP_TIMEOUT:.0f} s"
            )
        time.sleep(_POLL_PAUSE)
    print("The cluster has stopped.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
