#!/usr/bin/env python3
"""Compares a tree in memory, mounted, with tmpfs: `protocols/fuse/benches/beside_tmpfs.py`, as root.

Prints the best of the rounds for each and the ratio to tmpfs in the same run: what the way through
the kernel to another process costs. `cold` is the first time after the kernel forgot everything, `warm` the second.
SERVER=PATH takes an example `mount_memory` that is built already. Needs fio.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

ROUNDS = int(os.environ.get("ROUNDS", "3"))
FILE_MIB = int(os.environ.get("FILE_MIB", "1024"))
ENTRIES = 50_000


def main():
    top = os.path.abspath(os.path.join(os.path.dirname(__file__), "../../.."))
    server = os.environ.get("SERVER")
    if server is None:
        build = ["cargo", "build", "--quiet", "--release", "-p", "fuse", "--example", "mount_memory"]
        subprocess.run(build, cwd=top, check=True)
        target = os.environ.get("CARGO_TARGET_DIR", os.path.join(top, "target"))
        server = os.path.join(target, "release/examples/mount_memory")
    work = tempfile.mkdtemp(prefix="holdfast-fuse-bench-")
    mounted = {}
    folders = {name: os.path.join(work, name) for name in ("tmpfs", "immutable", "shared")}
    for folder in folders.values():
        os.mkdir(folder)
    try:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folders["tmpfs"]], check=True)
        mounted["tmpfs"] = None
        for caching in ("immutable", "shared"):
            arguments = [server, folders[caching], str(FILE_MIB), str(ENTRIES), caching]
            process = mounted[caching] = subprocess.Popen(arguments)
            while not os.path.ismount(folders[caching]):
                if process.poll() is not None:
                    sys.exit("the server ended")
                time.sleep(0.05)
        fill(folders["immutable"], folders["tmpfs"])
        report(folders)
    finally:
        for name, process in mounted.items():
            subprocess.run(["umount", folders[name]], check=False)
            if process is not None:
                process.wait()
        for folder in folders.values():
            os.rmdir(folder)
        os.rmdir(work)


def fill(source, target):
    shutil.copy(os.path.join(source, "file"), os.path.join(target, "file"))
    os.mkdir(os.path.join(target, "folder"))
    for number in range(ENTRIES):
        open(os.path.join(target, "folder", f"entry-{number:06}"), "x").close()


def forget():
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3\n")


def sequential(folder):
    """MiB a second."""
    block = bytearray(1 << 20)
    start = time.monotonic()
    with open(os.path.join(folder, "file"), "rb", buffering=0) as file:
        while file.readinto(block):
            pass
    return FILE_MIB / (time.monotonic() - start)


def random(folder, threads):
    """Reads of 4 KiB a second."""
    command = ["fio", "--output-format=json", "--name=r", "--rw=randread", "--bs=4k", "--ioengine=psync"]
    command += [f"--filename={folder}/file", "--readonly", "--invalidate=0", "--thread", "--group_reporting"]
    command += [f"--numjobs={threads}", "--time_based", "--runtime=2", "--random_generator=tausworthe64"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(said[said.index("{"):])["jobs"][0]["read"]["iops"]


def listing(folder, *options):
    """Entries a second."""
    start = time.monotonic()
    command = ["ls", *options, os.path.join(folder, "folder")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return ENTRIES / (time.monotonic() - start)


def report(folders):
    rows = [
        (f"sequential read of {FILE_MIB} MiB, cold, MiB/s", sequential, "cold"),
        (f"sequential read of {FILE_MIB} MiB, warm, MiB/s", sequential, "warm"),
        ("4 KiB random read, cold, 1/s", lambda folder: random(folder, 1), "cold"),
        ("4 KiB random read, 4 threads, cold, 1/s", lambda folder: random(folder, 4), "cold"),
        ("`ls` of 50,000, cold, 1/s", lambda folder: listing(folder, "-U"), "cold"),
        ("`ls -l` of 50,000, cold, 1/s", lambda folder: listing(folder, "-lU"), "cold"),
        ("`ls -l` of 50,000, warm, 1/s", lambda folder: listing(folder, "-lU"), "warm"),
    ]
    print("| | tmpfs | immutable | ratio | shared | ratio |\n|---|---|---|---|---|---|")
    for name, measure, state in rows:
        best = dict.fromkeys(folders, 0.0)
        for _ in range(ROUNDS):
            for kind, folder in folders.items():
                forget()
                if state == "warm":
                    measure(folder)
                best[kind] = max(best[kind], measure(folder))
        base = best["tmpfs"]
        cells = [f"{best[kind]:.0f} | {best[kind] / base:.2f}" for kind in ("immutable", "shared")]
        print(f"| {name} | {base:.0f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
