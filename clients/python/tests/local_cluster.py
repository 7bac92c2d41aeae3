"""A real cluster for the tests: `raft-kv cluster` on free ports and a directory of its own."""

import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import List, Optional

import requests

from python_kv import cli

READY_SECONDS = 60
STOP_SECONDS = 20


def free_ports(nodes: int) -> int:
    """The first of as many free client ports in a row, whose peer ports are free too."""
    for _ in range(100):
        # Peer ports are in odd thousands. Other tests of the repository take the ports below.
        first = random.choice([26_000, 28_000, 30_000]) + random.randrange(0, 1_000, 10)
        try:
            sockets = []
            try:
                for port in range(first, first + nodes):
                    for each in (port, port + 1000):
                        taken = socket.socket()
                        sockets.append(taken)
                        taken.bind(("127.0.0.1", each))
            finally:
                for taken in sockets:
                    taken.close()
            return first
        except OSError:
            continue
    raise RuntimeError("no free ports found")


class Cluster:
    """Three nodes under a supervisor."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self.nodes = 3
        self.program = cli.find_program()
        self.directory = directory
        self.flags = flags
        self.port = free_ports(self.nodes)
        self.output: List[str] = []
        self.process: Optional[subprocess.Popen] = None
        self.start()

    @property
    def urls(self) -> List[str]:
        return [f"http://127.0.0.1:{self.port + node}" for node in range(self.nodes)]

    def start(self) -> None:
        command = [self.program, "cluster", f"--port={self.port}", f"--data-dir={self.directory}"]
        self.output = []
        self.process = subprocess.Popen(
            command + list(self.flags),
            # No test is about a leader that is slow, and the machines are busy.
            env={**os.environ, "RAFT_KV_ELECTION_TIMEOUT": "1s"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
        )
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()
        self.leader(READY_SECONDS)
        self.wait_for_line("Ctrl-C")
        # The third node may still start when the other two have a leader.
        for url in self.urls:
            self.wait_for_answer(url)

    def _read(self, process: subprocess.Popen) -> None:
        for line in process.stdout:
            self.output.append(line.rstrip())

    def wait_for_line(self, part: str) -> str:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            for line in self.output:
                if part in line:
                    return line
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"the cluster never said {part!r}: {self.output}")

    def wait_for_answer(self, url: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            try:
                requests.get(f"{url}/is_leader", timeout=1)
                return
            except requests.RequestException:
                time.sleep(0.05)
        raise AssertionError(f"{url} never answered: {self.output}")

    def leader(self, seconds: float = 15) -> int:
        """The node that leads, waited for."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for node, url in enumerate(self.urls):
                try:
                    if requests.get(f"{url}/is_leader", timeout=1).json()["is_leader"]:
                        return node
                except (requests.RequestException, ValueError, KeyError):
                    pass
            if self.process.poll() is not None:
                time.sleep(0.2)
                raise AssertionError(f"the cluster ended: {self.output}")
            time.sleep(0.02)
        raise AssertionError(f"nobody leads: {self.output}")

    def leader_url(self) -> str:
        return self.urls[self.leader()]

    def follower_url(self) -> str:
        leader = self.leader()
        return self.urls[(leader + 1) % self.nodes]

    def kill_node(self, node: int) -> None:
        """SIGKILL, as the supervisor named its process when it was ready."""
        line = next(line for line in self.output if f"node {node}  http" in line)
        os.kill(int(re.search(r"pid (\d+)", line).group(1)), signal.SIGKILL)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
