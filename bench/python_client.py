#!/usr/bin/env python3
"""Measures the Python client against three nodes on this machine.

    python3 -m venv venv && venv/bin/pip install ./clients/python
    venv/bin/python bench/python_client.py --binary target/release/raft-kv

Each line says how many operations a second were done, and how much processor time of this process an
operation took. Keys and values are short texts, as in the tests of the older package.
"""

import argparse
import os
import sys
import tempfile
import time

from failover import Cluster, in_threads
from python_kv import KVStore


def measure(name, threads, seconds, work):
    """Runs `work(thread, number)` again and again in some threads."""
    counts = [0] * threads
    errors = []
    end = time.monotonic() + seconds

    def run(thread):
        number = 0
        try:
            while time.monotonic() < end:
                number += work(thread, number)
        except Exception as error:  # a failed operation ends the measurement
            errors.append(error)
        counts[thread] = number

    took, cpu = in_threads(threads, run)
    if errors:
        sys.exit(f"{name}: {errors[0]!r}")
    done = sum(counts)
    print(f"{name:28} {threads:3} threads  {done / took:9,.0f}/s  {cpu / done * 1e6:7.0f} us of CPU each",
          flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default="target/release/raft-kv")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--port", type=int, default=23780, help="the first of some free ports")
    parser.add_argument("--dir", default=".", help="on the disk to be measured")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as directory:
        cluster = Cluster(os.path.abspath(args.binary), directory, args.port, [])
        try:
            cluster.wait_ready()
            kv = KVStore(f"http://127.0.0.1:{cluster.clients[cluster.leader()]}", server_id=0)
            for threads in (1, 20):
                def put(thread, number):
                    kv.put(f"{thread}-{number % 1000}", "some value")
                    return 1

                def get(thread, number):
                    kv.get(f"{thread}-{number % 1000}")
                    return 1

                measure("put", threads, args.seconds, put)
                measure("get", threads, args.seconds, get)

            def put_many(thread, number):
                kv.put_many({f"many-{number + at}": "some value" for at in range(512)})
                return 512

            def get_many(thread, number):
                return len(kv.get_many([f"many-{(number + at) % 512}" for at in range(512)]))

            measure("put_many, 512 keys each", 1, args.seconds, put_many)
            measure("get_many, 512 keys each", 1, args.seconds, get_many)
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
