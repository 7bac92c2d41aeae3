#!/usr/bin/env python3
"""Measures how long a cluster takes no writes after its leader is killed.

Three nodes on this machine. In each trial the leader gets SIGKILL (or SIGSTOP, with --pause), and
the other two are asked to write, again and again, until one of them has done it. Then the killed
node is started again, and the next trial begins when all three are ready.

    bench/failover.py --binary target/release/raft-kv --trials 100

It needs Python 3.8 and nothing else.
"""

import argparse
import http.client
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

NODES = 3
READY_TIMEOUT_S = 60.0


def ask(port, method, path, body=None, headers=None, timeout=15.0):
    """The status and the body of an answer, or None if there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return None
    finally:
        connection.close()


def in_threads(threads, run):
    """Calls `run(thread)` in some threads. The seconds that it took, and of processor time."""
    workers = [threading.Thread(target=run, args=(thread,)) for thread in range(threads)]
    began, cpu = time.monotonic(), time.process_time()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.monotonic() - began, time.process_time() - cpu


class Cluster:
    def __init__(self, binary, directory, port, extra):
        self.binary, self.directory, self.extra = binary, directory, extra
        self.clients = [port + node for node in range(NODES)]
        self.peers = ",".join(
            f"{node}=127.0.0.1:{port + node}/127.0.0.1:{port + 100 + node}" for node in range(NODES)
        )
        self.processes = [self.start(node) for node in range(NODES)]

    def start(self, node):
        log = open(os.path.join(self.directory, f"log{node}"), "ab")
        with log:
            return subprocess.Popen(
                [self.binary, "serve", "--id", str(node), "--peers", self.peers, "--data-dir",
                 os.path.join(self.directory, str(node)), "--bootstrap"] + self.extra,
                stdout=log, stderr=log)

    def wait_ready(self):
        end = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < end:
            answers = [ask(port, "GET", "/readyz", timeout=1.0) for port in self.clients]
            if all(answer is not None and answer[0] == 200 for answer in answers):
                return
            time.sleep(0.05)
        sys.exit("the nodes are not ready")

    def leader(self):
        for node, port in enumerate(self.clients):
            answer = ask(port, "GET", "/is_leader", timeout=1.0)
            if answer is not None and b"true" in answer[1]:
                return node
        sys.exit("no node leads")

    def stop(self):
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.processes:
            process.wait()


def trial(cluster, how, number):
    """Milliseconds from the signal to the next write that is done."""
    leader = cluster.leader()
    others = [port for node, port in enumerate(cluster.clients) if node != leader]
    cluster.processes[leader].send_signal(how)
    begun = time.monotonic()
    attempt = 0
    while True:
        port = others[attempt % len(others)]
        attempt += 1
        # A node refuses at once what it cannot do yet, so the time has the resolution of a request.
        answer = ask(port, "PUT", f"/v1/kv/failover/{number}", b"x", {"raft-kv-wait-ms": "0"})
        if answer is not None and answer[0] == 200:
            break
        time.sleep(0.001)
    took = (time.monotonic() - begun) * 1000
    if how == signal.SIGKILL:
        cluster.processes[leader].wait()
        cluster.processes[leader] = cluster.start(leader)
    else:
        cluster.processes[leader].send_signal(signal.SIGCONT)
    return took


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default="target/release/raft-kv")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--port", type=int, default=23480, help="the first of some free ports")
    parser.add_argument("--dir", default=".", help="on the disk to be measured")
    parser.add_argument("--pause", action="store_true", help="SIGSTOP instead of SIGKILL")
    parser.add_argument("serve", nargs="*", help="further arguments of the nodes, after --")
    args = parser.parse_args()
    how = signal.SIGSTOP if args.pause else signal.SIGKILL
    with tempfile.TemporaryDirectory(dir=args.dir) as directory:
        cluster = Cluster(args.binary, directory, args.port, args.serve)
        try:
            times = []
            for number in range(args.trials):
                cluster.wait_ready()
                times.append(trial(cluster, how, number))
        finally:
            cluster.stop()
    times.sort()
    at = lambda share: times[min(len(times) - 1, int(share * len(times)))]
    print(f"{len(times)} trials of {how.name}: median {statistics.median(times):.0f} ms, "
          f"95 of 100 within {at(0.95):.0f} ms, least {times[0]:.0f} ms, most {times[-1]:.0f} ms")


if __name__ == "__main__":
    main()
