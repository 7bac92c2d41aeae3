#!/usr/bin/env python3
"""Measures how puts and gets change with clients, value sizes, keys and nodes.

One setting changes in each curve; the others are 64 clients, values of 256 bytes, 100,000 keys (as
many as fit into 512 MiB if they are larger) and three nodes, all on this machine. A point is the median of the rounds, each on a new cluster, and
the thin line goes from the least to the greatest. Prints tables, and draws them with --svg.

    bench/curves.py --binary target/release/raft-kv --rounds 3 --svg bench/curves.svg

It needs Python 3.8 and nothing else. Ten million keys take 15 GB of memory and disk.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time

from failover import ask

USUAL = {"clients": 64, "value_bytes": 256, "keys": 100_000, "nodes": 3}
CURVES = {
    "clients": [1, 4, 16, 64, 256, 1024],
    "value_bytes": [16, 256, 4096, 65536, 262144],
    "keys": [1_000, 100_000, 1_000_000, 10_000_000],
    "nodes": [1, 3, 5, 7],
}
TITLES = {
    "clients": "clients, each with a connection",
    "value_bytes": "bytes of a value",
    "keys": "keys",
    "nodes": "nodes, all on one machine",
}
# Large values have fewer keys, so that the state of one node stays below this.
LARGE_BYTES_MAX = 512 << 20
READY_TIMEOUT_S = 60.0
COLUMNS = ["puts/s", "put p50 ms", "put p99 ms", "gets/s", "get p99 ms", "CPU us/put", "MB of a node"]


class Cluster:
    """The processes of `raft-kv cluster`."""

    def __init__(self, binary, directory, port, nodes):
        self.ports = [port + node for node in range(nodes)]
        self.log = open(os.path.join(directory, "log"), "ab")
        self.process = subprocess.Popen(
            [binary, "cluster", "--nodes", str(nodes), "--port", str(port), "--log", "warn",
             "--data-dir", os.path.join(directory, "data")],
            stdout=self.log, stderr=self.log)
        end = time.monotonic() + READY_TIMEOUT_S
        while not all(self.is_ready(port) for port in self.ports):
            if time.monotonic() > end or self.process.poll() is not None:
                sys.exit("the nodes are not ready: " + open(self.log.name).read()[-2000:])
            time.sleep(0.1)

    @staticmethod
    def is_ready(port):
        answer = ask(port, "GET", "/readyz", timeout=1.0)
        return answer is not None and answer[0] == 200

    def children(self):
        """The processes of the nodes."""
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as file:
            return [int(pid) for pid in file.read().split()]

    def cpu_seconds(self):
        """The processor's time of all nodes so far."""
        total = 0
        for pid in self.children():
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def megabytes(self):
        """The resident memory of the largest node."""
        sizes = []
        for pid in self.children():
            with open(f"/proc/{pid}/status") as file:
                sizes += [int(line.split()[1]) for line in file if line.startswith("VmRSS")]
        return max(sizes) / 1000

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


def bench(binary, cluster, op, setting, seconds):
    """The report of `raft-kv bench`."""
    server = f"http://127.0.0.1:{cluster.ports[0]}"
    command = [binary, "bench", "--server", server, "--op", op, "--json",
               "--clients", str(setting["clients"]), "--value-size", str(setting["value_bytes"]),
               "--keys", str(setting["keys"]), "--duration", f"{seconds}s"]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if run.returncode != 0:
        sys.exit(f"{' '.join(command)}: {run.stderr.decode()[-2000:]}")
    return json.loads(run.stdout)


def point(args, setting):
    """The figures of one setting, on a new cluster."""
    setting = dict(setting)
    if setting["value_bytes"] > USUAL["value_bytes"]:
        setting["keys"] = min(setting["keys"], LARGE_BYTES_MAX // setting["value_bytes"])
    with tempfile.TemporaryDirectory(dir=args.dir) as directory:
        cluster = Cluster(args.binary, directory, args.port, setting["nodes"])
        try:
            # Writes all keys first, so that puts replace values.
            gets = bench(args.binary, cluster, "get", setting, args.seconds)
            cpu = cluster.cpu_seconds()
            puts = bench(args.binary, cluster, "put", setting, args.seconds)
            cpu = cluster.cpu_seconds() - cpu
            megabytes = cluster.megabytes()
        finally:
            cluster.stop()
    failed = sum(puts["errors"].values()) + sum(gets["errors"].values())
    figures = [puts["done_per_second"], puts["latency_us"]["p50"] / 1000,
               puts["latency_us"]["p99"] / 1000, gets["done_per_second"],
               gets["latency_us"]["p99"] / 1000, cpu / max(puts["done"], 1) * 1e6, megabytes]
    return figures, failed


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def cell(values):
    """The median, and the range where it is wide."""
    values = sorted(values)
    middle = number(statistics.median(values))
    wide = values[-1] > values[0] * 1.25
    return f"{middle} ({number(values[0])} to {number(values[-1])})" if wide else middle


def table(name, rows):
    print(f"\n| {TITLES[name]} | {' | '.join(COLUMNS)} | refused |")
    print("|" + "---|" * (len(COLUMNS) + 2))
    for value, rounds, failed in rows:
        cells = " | ".join(cell(column) for column in zip(*rounds))
        print(f"| {value:,} | {cells} | {failed} |", flush=True)


WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 400, 250, 62, 30, 36, 40
COLOURS = {"puts/s": "#2b6cb0", "gets/s": "#b7791f"}


def plot(name, rows, x0, y0):
    """One curve with two lines: puts and gets a second, on logarithmic axes."""
    columns = [COLUMNS.index(column) for column in COLOURS]
    figures = [value for _, rounds, _ in rows for figures in rounds for value in
               (figures[at] for at in columns) if value > 0]
    low = math.floor(math.log10(min(figures)))
    high = max(math.ceil(math.log10(max(figures))), low + 1)
    xs = [math.log(value) for value, _, _ in rows]

    def x(value):
        share = (math.log(value) - xs[0]) / max(xs[-1] - xs[0], 1e-9)
        return x0 + LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(value):
        share = (math.log10(max(value, 10**low)) - low) / (high - low)
        return y0 + HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    parts = [f'<text class="h" x="{x0 + 8}" y="{y0 + 18}">{TITLES[name]}</text>']
    for power in range(low, high + 1):
        at = y(10**power)
        parts.append(f'<line class="g" x1="{x0 + LEFT}" x2="{x0 + WIDTH - RIGHT}" y1="{at:.1f}" '
                     f'y2="{at:.1f}"/><text class="n" text-anchor="end" x="{x0 + LEFT - 6}" '
                     f'y="{at + 4:.1f}">{10**power:,}</text>')
    for value, _, _ in rows:
        parts.append(f'<text class="n" text-anchor="middle" x="{x(value):.1f}" '
                     f'y="{y0 + HEIGHT - BOTTOM + 18}">{value:,}</text>')
    for place, (column, colour) in enumerate(COLOURS.items()):
        at = COLUMNS.index(column)
        medians = []
        for value, rounds, _ in rows:
            several = sorted(figures[at] for figures in rounds)
            medians.append((x(value), y(statistics.median(several))))
            parts.append(f'<line stroke="{colour}" x1="{x(value):.1f}" x2="{x(value):.1f}" '
                         f'y1="{y(several[0]):.1f}" y2="{y(several[-1]):.1f}"/>')
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in medians)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{line}"/>')
        parts += [f'<circle fill="{colour}" r="3" cx="{a:.1f}" cy="{b:.1f}"/>' for a, b in medians]
        parts.append(f'<text fill="{colour}" x="{x0 + WIDTH - 110 + place * 52}" '
                     f'y="{y0 + 18}">{column}</text>')
    return "".join(parts)


def draw(curves, path):
    plots = [plot(name, rows, (at % 2) * WIDTH, (at // 2) * HEIGHT)
             for at, (name, rows) in enumerate(curves.items())]
    size = f'{2 * WIDTH} {(len(plots) + 1) // 2 * HEIGHT}'
    style = "text{font:11px sans-serif}.h{font-weight:bold}.n{fill:#555}.g{stroke:#e2e8f0}"
    with open(path, "w") as file:
        file.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}"><style>{style}'
                   f'</style><rect width="100%" height="100%" fill="#fff"/>{"".join(plots)}</svg>\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default="target/release/raft-kv")
    parser.add_argument("--seconds", type=int, default=3, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=24480, help="the first of some free ports")
    parser.add_argument("--dir", default=".", help="on the disk to be measured")
    parser.add_argument("--svg", help="file for the picture")
    parser.add_argument("--most-keys", type=int, default=10_000_000)
    parser.add_argument("curves", nargs="*", help=f"of {', '.join(CURVES)}; all by default")
    args = parser.parse_args()
    args.binary = os.path.abspath(args.binary)
    unknown = set(args.curves) - set(CURVES)
    if unknown:
        parser.error(f"no such curve: {', '.join(unknown)}")
    curves = {}
    for name in args.curves or CURVES:
        rows = []
        for value in CURVES[name]:
            if name == "keys" and value > args.most_keys:
                continue
            found = [point(args, {**USUAL, name: value}) for _ in range(args.rounds)]
            rows.append((value, [figures for figures, _ in found], sum(f for _, f in found)))
        curves[name] = rows
        table(name, rows)
    if args.svg:
        draw(curves, args.svg)


if __name__ == "__main__":
    main()
