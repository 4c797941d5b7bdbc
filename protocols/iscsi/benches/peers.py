#!/usr/bin/env python3
"""The example server's disk in RAM against tgt serving a raw file in RAM, both read and written by qemu-img bench.

    cargo build --release -p iscsi --example serve_memory && protocols/iscsi/benches/peers.py [--rounds N] [--rows PATTERN]

Prints for each workload the server's CPU time per operation (user and system, from /proc/PID/stat, least of the rounds) and
the wall rate (best of the rounds). Servers take turns within a round. Needs root, qemu-img with its iSCSI driver, and tgt.
"""
import argparse
import os
import pathlib
import re
import subprocess
import time

TREE = pathlib.Path(__file__).resolve().parents[3]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", TREE / "target"))
MIB = 1 << 20
DISK_MIB = 192
TICK = os.sysconf("SC_CLK_TCK")
OURS, TGT, CONTROL = "127.0.13.1", "127.0.13.2", "13"

# Name, operations, depth, bytes, step, writing. A step of a few KiB more than the size stands for random places.
WORKLOADS = [
    ("1 MiB read d1", 300, 1, MIB, MIB, False),
    ("1 MiB read d8", 400, 8, MIB, MIB, False),
    ("64 KiB read d32", 6000, 32, 65536, 1114112, False),
    ("4 KiB read d1", 6000, 1, 4096, 1052672, False),
    ("4 KiB read d32", 20000, 32, 4096, 1052672, False),
    ("1 MiB write d8", 200, 8, MIB, MIB, True),
    ("64 KiB write d32", 3000, 32, 65536, 1114112, True),
    ("4 KiB write d1", 5000, 1, 4096, 1052672, True),
    ("4 KiB write d32", 20000, 32, 4096, 1052672, True),
]


def ticks(process):
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def bench(url, count, depth, size, step, writing):
    command = ["qemu-img", "bench", "-q", "-f", "raw", "-t", "none", "-c", str(count), "-d", str(depth), "-s", str(size),
               "-S", str(step)] + (["-w", "--pattern", "7"] if writing else []) + [url]
    subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL)


def measure(servers, rounds, rows):
    best = {}
    for _ in range(rounds):
        for name, count, *workload in WORKLOADS:
            if not re.search(rows, name):
                continue
            for server, process, url in servers:
                before, started = ticks(process), time.monotonic()
                bench(url, count, *workload)
                rate = count / (time.monotonic() - started)
                cpu = (ticks(process) - before) / TICK * 1e6 / count
                old = best.get((name, server), (float("inf"), 0.0))
                best[name, server] = (min(old[0], cpu), max(old[1], rate))
    return best


def start_tgt(image):
    tgtd = subprocess.Popen(["tgtd", "-f", "-C", CONTROL, "--iscsi", f"portal={TGT}:3260"], stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL)
    name = "iqn.2026-01.bench:tgt"
    for words in (f"--op new --mode target --tid 1 -T {name}",
                  f"--op new --mode logicalunit --tid 1 --lun 1 -b {image} --bstype rdwr",
                  "--op bind --mode target --tid 1 -I ALL"):
        command = ["tgtadm", "-C", CONTROL, "--lld", "iscsi", *words.split()]
        for _ in range(50):
            if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
                break
            time.sleep(0.1)
    return "tgt", tgtd, f"iscsi://{TGT}:3260/{name}/1"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", default="")
    arguments = parser.parse_args()
    image = pathlib.Path("/dev/shm/holdfast-iscsi-peers.img")
    image.write_bytes(os.urandom(DISK_MIB * MIB))
    ours = subprocess.Popen([TARGET / "release/examples/serve_memory", f"{OURS}:3260", str(DISK_MIB)])
    servers = [("ours", ours, f"iscsi://{OURS}:3260/iqn.2026-01.example:memory/1")]
    try:
        servers.append(start_tgt(image))
        # Ours holds as much as the other.
        bench(servers[0][2], DISK_MIB, 4, MIB, MIB, True)
        best = measure(servers, arguments.rounds, arguments.rows)
        print("| workload | ours | tgt | CPU, rate |\n|---|---|---|---|")
        for name, *_ in WORKLOADS:
            if (name, "ours") in best:
                (own, rate), (cpu, other) = best[name, "ours"], best[name, "tgt"]
                print(f"| {name} | {own:.1f} us, {rate:.0f}/s | {cpu:.1f} us, {other:.0f}/s | "
                      f"{cpu / max(own, 0.01):.1f}x, {rate / other:.1f}x |")
    finally:
        for _, process, _ in servers:
            process.kill()
            process.wait()
        image.unlink()


main()
