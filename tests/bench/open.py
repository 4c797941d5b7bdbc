#!/usr/bin/env python3
"""How long from `recover start` to the first byte, for many points and for disks of any size.

    tests/bench/open.py [--points N] [--rounds N]

Makes a repository with N points of one disk and with disks of 1 GiB to 64 TiB, runs the daemon, and for each point
starts a session (the command line's own start included), reads the first and the middle 4 KiB over NBD, and stops it.
Prints the middle of the rounds in milliseconds, and the daemon's largest memory. Needs nbdsh's Python module (Debian:
python3-libnbd) for the reads.
"""
import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

TREE = pathlib.Path(__file__).resolve().parents[2]
# Debian's module for Debian's Python, whichever one runs this.
READ = """
import nbd, sys, time
handle = nbd.NBD()
handle.connect_uri(sys.argv[1])
handle.pread(4096, 0)
print(time.time())
handle.pread(4096, handle.get_size() // 2)
"""


def build():
    subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "holdfast"], cwd=TREE, check=True)
    command = ["cargo", "build", "--release", "-p", "repo", "--bench", "engine", "--message-format=json"]
    output = subprocess.run(command, cwd=TREE, check=True, stdout=subprocess.PIPE, text=True).stdout
    messages = map(json.loads, output.splitlines())
    engines = [m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "engine"]
    return str(TREE / "target/release/holdfast"), engines[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=10000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    holdfast, engine = build()
    folder = tempfile.mkdtemp(prefix="holdfast-open-", dir="/var/tmp")
    store = f"{folder}/repository"
    state = ["--state", f"{store}/daemon"]
    started = time.monotonic()
    subprocess.run([engine, "points", store, str(arguments.points)], check=True)
    print(f"{arguments.points} points made in {time.monotonic() - started:.1f} s")
    sizes = {"1GiB": 1 << 30, "64GiB": 1 << 36, "1TiB": 1 << 40, "64TiB": 1 << 46}
    for name, size in sizes.items():
        subprocess.run([engine, "disk", store, f"disk-{name}", str(size)], check=True)
    started = time.monotonic()
    daemon = subprocess.Popen([holdfast, "serve", "--repository", store, "--any-ports", "--log", "warn"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while subprocess.run([holdfast, "stats", *state], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
            time.sleep(0.02)
        print(f"daemon ready {time.monotonic() - started:.2f} s after its start")
        many = [f"many@{number}" for number in sorted({1, min(100, arguments.points), arguments.points})]
        for point in many + [f"disk-{name}@1" for name in sizes]:
            times = []
            for _ in range(arguments.rounds):
                begun = time.time()
                answer = subprocess.run([holdfast, "recover", "start", point, "--json", *state], check=True,
                                        stdout=subprocess.PIPE).stdout
                session = json.loads(answer)
                opened = time.time() - begun
                url = session["disks"][0]["urls"]["nbd"]
                connect = time.time()
                first = float(subprocess.run(["/usr/bin/python3", "-c", READ, url], check=True, text=True,
                                             stdout=subprocess.PIPE).stdout)
                times.append((opened * 1000, (first - connect) * 1000))
                subprocess.run([holdfast, "recover", "discard", session["session"], *state], check=True,
                               stdout=subprocess.DEVNULL)
            start, read = (statistics.median(column) for column in zip(*times))
            print(f"{point:14} recover start {start:6.1f} ms, then connected and read {read:6.1f} ms"
                  " (with the start of Python and its NBD module)")
        status = pathlib.Path(f"/proc/{daemon.pid}/status").read_text()
        print(f"the daemon's largest memory: {int(status.split('VmHWM:')[1].split()[0]) // 1024} MiB")
    finally:
        daemon.terminate()
        daemon.wait()
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
