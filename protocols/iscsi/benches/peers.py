#!/usr/bin/env python3
"""The example server's disk in RAM against tgt serving a raw file in RAM, both read and written by qemu-img bench.

    cargo build --release -p iscsi --examples && protocols/iscsi/benches/peers.py [--rounds N] [--rows PATTERN]

Prints for each workload the server's CPU time per operation (user and system, from /proc/PID/stat, least of the rounds) and
the wall rate (best of the rounds). Servers take turns within a round. The last column is the CPU time of a server that
moves as many bytes over TCP and does nothing else (the example bare_socket). Needs root, qemu-img with its iSCSI driver,
and tgt.
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys

TREE = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(TREE / "tests/bench"))
from measure import MIB, WORKLOADS, bare_bench, qemu_bench, start_tgt, timed  # noqa: E402

EXAMPLES = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", TREE / "target")) / "release/examples"
DISK_MIB = 192
OURS, TGT, CONTROL, BARE = "127.0.13.1", "127.0.13.2", "13", ("127.0.13.3", 3260)


def measure(servers, rounds, rows):
    best = {}
    for _ in range(rounds):
        for name, count, *workload in WORKLOADS:
            if not re.search(rows, name):
                continue
            for server, process, bench, place in servers:
                cpu, rate = timed(process, count, lambda: bench(place, count, *workload))
                old = best.get((name, server), (float("inf"), 0.0))
                best[name, server] = (min(old[0], cpu), max(old[1], rate))
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", default="")
    arguments = parser.parse_args()
    image = pathlib.Path("/dev/shm/holdfast-iscsi-peers.img")
    image.write_bytes(os.urandom(DISK_MIB * MIB))
    ours = subprocess.Popen([EXAMPLES / "serve_memory", f"{OURS}:3260", str(DISK_MIB)])
    bare = subprocess.Popen([EXAMPLES / "bare_socket", f"{BARE[0]}:{BARE[1]}"])
    servers = [("ours", ours, qemu_bench, f"iscsi://{OURS}:3260/iqn.2026-01.example:memory/1"), ("bare", bare, bare_bench, BARE)]
    try:
        tgt, url = start_tgt(TGT, CONTROL, "iqn.2026-01.bench:tgt", image)
        servers.append(("tgt", tgt, qemu_bench, url))
        # Ours holds as much as the other.
        qemu_bench(servers[0][3], DISK_MIB, 4, MIB, MIB, True)
        best = measure(servers, arguments.rounds, arguments.rows)
        print("| workload | ours | tgt | CPU, rate | TCP alone |\n|---|---|---|---|---|")
        for name, *_ in WORKLOADS:
            if (name, "ours") in best:
                (own, rate), (cpu, other) = best[name, "ours"], best[name, "tgt"]
                print(f"| {name} | {own:.1f} us, {rate:.0f}/s | {cpu:.1f} us, {other:.0f}/s | "
                      f"{cpu / max(own, 0.01):.1f}x, {rate / other:.1f}x | {best[name, 'bare'][0]:.1f} us |")
    finally:
        for _, process, *_ in servers:
            process.kill()
            process.wait()
        image.unlink()


main()
