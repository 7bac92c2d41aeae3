#!/usr/bin/env python3
"""Sends the state of a cluster to a new node, and cuts the connection again and again meanwhile.

Three nodes on this machine are filled with values of 1 KiB. A fourth is added as a learner. It is
reached through a proxy, which breaks all connections at even distances of the transfer, and refuses
new ones for a moment. At the first cut the new node is killed and started again, and at the second
the leader. At the end the bytes that were sent are compared with the size of the snapshot.

    bench/snapshot_cuts.py --binary target/release/raft-kv --megabytes 1024 --cuts 5

It needs Python 3.8 and nothing else.
"""

import argparse
import http.client
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from failover import Cluster, ask

NEW = 3
REFUSED_S = 1.0
FETCH_TIMEOUT_S = 900.0


class Proxy:
    """Passes connections on to a port, until it is told to break them."""

    def __init__(self, port, to):
        self.port, self.to = port, to
        self.lock, self.open, self.refuses_until = threading.Lock(), [], 0.0
        listener = socket.create_server(("127.0.0.1", port), backlog=64)
        threading.Thread(target=self.accept, args=(listener,), daemon=True).start()

    def accept(self, listener):
        while True:
            client, _ = listener.accept()
            if time.monotonic() < self.refuses_until:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
                client.close()
                continue
            with self.lock:
                self.open += [client, server]
            threading.Thread(target=self.pump, args=(client, server), daemon=True).start()

    def pump(self, client, server):
        ways = selectors.DefaultSelector()
        ways.register(client, selectors.EVENT_READ, server)
        ways.register(server, selectors.EVENT_READ, client)
        try:
            while True:
                for key, _ in ways.select():
                    data = key.fileobj.recv(1 << 18)
                    if not data:
                        return
                    key.data.sendall(data)
        except (OSError, ValueError):
            pass
        finally:
            ways.close()
            self.end([client, server])

    def end(self, sockets):
        with self.lock:
            self.open = [each for each in self.open if each not in sockets]
        for each in sockets:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            each.close()

    def cut(self):
        self.refuses_until = time.monotonic() + REFUSED_S
        with self.lock:
            now = list(self.open)
        self.end(now)


def fill(port, megabytes):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    value = "x" * 1024
    for first in range(0, megabytes * 1024, 512):
        batch = [{"op": "put", "key": f"key-{number}", "value": value}
                 for number in range(first, first + 512)]
        while True:
            connection.request("POST", "/v1/batch", json.dumps({"operations": batch}),
                               {"content-type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status == 200:
                break
            if answer.status not in (429, 503):
                sys.exit(f"a batch was answered {answer.status}: {text[:200]!r}")
            time.sleep(0.1)


def metric(port, name):
    answer = ask(port, "GET", "/metrics", timeout=5.0)
    if answer is None or answer[0] != 200:
        return None
    found = re.search(rf"^{name} (\d+)$", answer[1].decode(), re.M)
    return int(found.group(1)) if found else None


class Sent:
    """Bytes of snapshots that the nodes have sent, over their restarts."""

    def __init__(self, ports):
        self.ports, self.before, self.last = ports, dict.fromkeys(ports, 0), dict.fromkeys(ports, 0)

    def read(self):
        for port in self.ports:
            now = metric(port, "peer_snapshot_bytes_sent_total")
            if now is None:
                continue
            if now < self.last[port]:
                self.before[port] += self.last[port]
            self.last[port] = now
        return sum(self.before.values()) + sum(self.last.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default="target/release/raft-kv")
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--cuts", type=int, default=5)
    parser.add_argument("--port", type=int, default=23580, help="the first of some free ports")
    parser.add_argument("--dir", default=".", help="on the disk to be measured")
    args = parser.parse_args()
    binary = os.path.abspath(args.binary)
    with tempfile.TemporaryDirectory(dir=args.dir) as directory:
        cluster = Cluster(binary, directory, args.port, [])
        client, peer, proxied = args.port + 10, args.port + 110, args.port + 210
        own = f"{NEW}=127.0.0.1:{client}/127.0.0.1:{proxied}"
        start_new = lambda: subprocess.Popen(
            [binary, "serve", "--id", str(NEW), "--join", "--peers", cluster.peers + "," + own,
             "--listen", f"127.0.0.1:{client}", "--peer-listen", f"127.0.0.1:{peer}",
             "--data-dir", os.path.join(directory, str(NEW))],
            stdout=subprocess.DEVNULL, stderr=open(os.path.join(directory, "log3"), "ab"))
        new = None
        try:
            cluster.wait_ready()
            began = time.monotonic()
            fill(cluster.clients[cluster.leader()], args.megabytes)
            print(f"filled with {args.megabytes} MiB in {time.monotonic() - began:.0f} s", flush=True)
            # A snapshot may hold as little as half of the data; the log has the rest.
            size = args.megabytes << 19
            proxy = Proxy(proxied, peer)
            new = start_new()
            time.sleep(1)
            server = f"http://127.0.0.1:{cluster.clients[cluster.leader()]}"
            subprocess.run([binary, "members", "add", "--learner", "--wait", "1s", "-s", server, own],
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
            sent, cuts, began = Sent(cluster.clients), 0, time.monotonic()
            while True:
                if time.monotonic() - began > FETCH_TIMEOUT_S:
                    sys.exit("the new node has not caught up")
                done = sent.read()
                if cuts < args.cuts and done > size * (cuts + 1) / (args.cuts + 1):
                    cuts += 1
                    print(f"cut {cuts} after {done / 1e6:.0f} MB", flush=True)
                    proxy.cut()
                    if cuts == 1:
                        new.kill()
                        new.wait()
                        new = start_new()
                    if cuts == 2:
                        leader = cluster.leader()
                        cluster.processes[leader].send_signal(signal.SIGKILL)
                        cluster.processes[leader].wait()
                        cluster.processes[leader] = cluster.start(leader)
                ready = ask(client, "GET", "/readyz", timeout=2.0)
                if ready is not None and ready[0] == 200:
                    break
                time.sleep(0.1)
            took = time.monotonic() - began
            done = sent.read()
            files = [os.path.join(at, name)
                     for at, _, names in os.walk(os.path.join(directory, str(NEW), "snapshots"))
                     for name in names]
            size = max(map(os.path.getsize, files))
            print(f"{cuts} cuts: {done / 1e6:.0f} MB sent for a snapshot of {size / 1e6:.0f} MB "
                  f"({done / size:.2f} times its size), ready after {took:.0f} s")
        finally:
            if new is not None:
                new.kill()
                new.wait()
            cluster.stop()


if __name__ == "__main__":
    main()
