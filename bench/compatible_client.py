#!/usr/bin/env python3
"""Measures the compatible API with a client of the older kind, beside a server that does nothing.

The client works as the older package does: each operation is three requests (`get_commits_since`,
`submit`, `wait_commit`), each request has a connection of its own, and values come from a dictionary
that the commits fill. So most of an operation is the client's own work: the second server, which
answers every request at once, shows how much. They take turns.

    python3 -m venv venv && venv/bin/pip install requests
    venv/bin/python bench/compatible_client.py --binary target/release/raft-kv
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time

import requests
from failover import Cluster, in_threads

TIMEOUT_MS = 30_000


class OlderClient:
    """One server of the compatible API."""

    def __init__(self, url):
        self.url, self.values, self.applied = url, {}, -1
        self.lock = threading.Lock()

    def sync(self):
        answer = requests.get(f"{self.url}/get_commits_since", params={"since_index": self.applied}).json()
        for commit in answer["commits"]:
            self.apply(commit)

    def apply(self, commit):
        command = commit["command"]
        with self.lock:
            if commit["index"] <= self.applied:
                return
            self.applied = commit["index"]
            if command["kind"] == "put":
                self.values[command["key"]] = command["value"]

    def put(self, key, value):
        self.sync()
        submitted = requests.post(f"{self.url}/submit", json={"kind": "put", "key": key, "value": value}).json()
        if not submitted["is_leader"]:
            sys.exit("the node does not lead")
        wait = {"log_index": submitted["log_index"], "timeout_ms": TIMEOUT_MS}
        self.apply(requests.post(f"{self.url}/wait_commit", json=wait).json())


class Stub(asyncio.Protocol):
    """Answers each request at once, as a leader with an empty history does."""

    index = 0

    def connection_made(self, transport):
        self.transport, self.received = transport, b""

    def data_received(self, data):
        self.received += data
        while True:
            head, end, rest = self.received.partition(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            lengths = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
            length = lengths[0] if lengths else 0
            if not end or len(rest) < length:
                return
            self.received = rest[length:]
            self.answer(head, rest[:length])

    def answer(self, head, body):
        if b"/submit" in head:
            said = {"log_index": Stub.index, "is_leader": True, "term": 1}
            Stub.index += 1
        elif b"/wait_commit" in head:
            command = {"kind": "put", "key": "key", "value": "some value", "id": 0}
            said = {"index": json.loads(body)["log_index"], "term": 1, "command": command}
        else:
            said = {"commits": [], "count": 0}
        said = json.dumps(said).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self.transport.write(head % len(said) + said)


def serve_stub(port):
    async def serve():
        server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", port)
        await server.serve_forever()

    asyncio.run(serve())


def measure(url, threads, seconds):
    """Puts a second, and the processor time of this process for each, in microseconds."""
    client = OlderClient(url)
    client.sync()
    counts, end = [0] * threads, time.monotonic() + seconds

    def run(thread):
        while time.monotonic() < end:
            client.put(f"{thread}-{counts[thread] % 1000}", "some value")
            counts[thread] += 1

    took, cpu = in_threads(threads, run)
    return sum(counts) / took, cpu / sum(counts) * 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default="target/release/raft-kv")
    parser.add_argument("--threads", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--port", type=int, default=23880, help="the first of some free ports")
    parser.add_argument("--dir", default=".", help="on the disk to be measured")
    args = parser.parse_args()
    stub = multiprocessing.Process(target=serve_stub, args=(args.port + 50,), daemon=True)
    stub.start()
    with tempfile.TemporaryDirectory(dir=args.dir) as directory:
        cluster = Cluster(os.path.abspath(args.binary), directory, args.port, [])
        try:
            cluster.wait_ready()
            urls = {"nodes": f"http://127.0.0.1:{cluster.clients[cluster.leader()]}",
                    "stub": f"http://127.0.0.1:{args.port + 50}"}
            figures = {name: [] for name in urls}
            for _ in range(args.rounds):
                for name, url in urls.items():
                    figures[name].append(measure(url, args.threads, args.seconds))
        finally:
            cluster.stop()
            stub.terminate()
    for name, rounds in figures.items():
        rates, cpus = zip(*rounds)
        print(f"{name:6} {args.threads} threads  {statistics.median(rates):6.0f} puts/s  "
              f"{statistics.median(cpus):6.0f} us of the client's CPU each")
    ratios = [nodes[0] / stub[0] for nodes, stub in zip(figures["nodes"], figures["stub"])]
    print(f"nodes / stub: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
