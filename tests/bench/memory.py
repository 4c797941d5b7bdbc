#!/usr/bin/env python3
"""The daemon's memory while it takes in a large disk and while it serves one of 64 TiB.

    tests/bench/memory.py [--gib N] [--reads N] [--folder DIR] [--holdfast FILE]

The large disk is never on a disk: `nbdfuse` shows `nbdkit pattern`, in which every eight bytes are their own offset, so
that every chunk is new and all compress to about a tenth. The disk of 64 TiB gets data in 20,000 chunks at random
places, and is read there, and anywhere, over NBD. Prints the largest memory of each step (VmHWM, which is set back in
between) against 512 MiB and the configured caches, and fails if one is above. Needs root, nbdkit, nbdfuse, qemu-img,
nbdsh's Python module, and room for an eighth of the size (checked: 25 GiB must stay free). --holdfast measures a binary
that is there instead of building one.
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

TREE = pathlib.Path(__file__).resolve().parents[2]
GIB = 1 << 30
CHUNK = 65536
CACHES_MIB = {"chunk_cache": 128, "node_cache": 32, "index_cache": 64}
LIMIT_MIB = 512 + sum(CACHES_MIB.values())
HUGE = 64 << 40
# Debian's module for Debian's Python, whichever one runs this. Arguments: URL, file of offsets, reads.
READ = """
import nbd, random, struct, sys
handle = nbd.NBD()
handle.connect_uri(sys.argv[1])
places = [int(line.split()[0]) for line in open(sys.argv[2])]
generator = random.Random(5)
for number in range(int(sys.argv[3])):
    if number % 4 == 3:
        handle.pread(4096, generator.randrange(handle.get_size() // 4096) * 4096)
        continue
    at = generator.choice(places) + generator.randrange(16) * 4096
    if struct.unpack(">Q", handle.pread(4096, at)[:8])[0] != at:
        sys.exit(f"wrong bytes at {at}")
"""


class Daemon:
    def __init__(self, holdfast, folder, store):
        configuration = pathlib.Path(folder, "holdfast.toml")
        caches = "".join(f'{name} = "{mib}MiB"\n' for name, mib in CACHES_MIB.items())
        configuration.write_text(f"""
[repository]
path = "{store}"
{caches}
[api]
listen = "127.0.0.1:0"
[nbd]
listen = "127.0.0.1:0"
[nfs]
listen = "127.0.0.1:0"
portmapper = "off"
[iscsi]
listen = ["127.0.0.1:0"]
[log]
filter = "warn"
""")
        self.holdfast, self.state = holdfast, ["--state", f"{store}/daemon"]
        self.process = subprocess.Popen([holdfast, "serve", "--config", str(configuration)],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            if self.call("stats", check=False).returncode == 0:
                return
            time.sleep(0.1)
        sys.exit("the daemon does not answer")

    def call(self, *words, check=True):
        done = subprocess.run([self.holdfast, *words, *self.state], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if check and done.returncode != 0:
            sys.exit(f"holdfast {' '.join(words)}: {done.stderr.decode()[-1000:]}")
        return done

    def peak_mib(self):
        """The largest memory since the last call."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        pathlib.Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return int(status.split("VmHWM:")[1].split()[0]) / 1024


class Pattern:
    """A file of any size that is made up as it is read."""

    def __init__(self, folder, name, size):
        self.path = f"{folder}/{name}"
        pathlib.Path(self.path).touch()
        self.process = subprocess.Popen(["nbdfuse", "-r", self.path, "--command", "nbdkit", "-s", "pattern", str(size)])
        for _ in range(200):
            if os.stat(self.path).st_size == size:
                return
            time.sleep(0.1)
        sys.exit("nbdfuse shows no file")

    def close(self):
        subprocess.run(["umount", self.path], check=True)
        self.process.wait()


def tell(step, peak, seconds):
    verdict = "within" if peak <= LIMIT_MIB else "ABOVE"
    print(f"{step}: {seconds:.0f} s, largest memory {peak:.0f} MiB, {verdict} {LIMIT_MIB} MiB", flush=True)
    return peak <= LIMIT_MIB


def ingest(daemon, folder, gib):
    source = Pattern(folder, "large.raw", gib * GIB)
    try:
        started = time.monotonic()
        daemon.call("backup", "image", "large", source.path)
        return tell(f"first backup of {gib} GiB", daemon.peak_mib(), time.monotonic() - started)
    finally:
        source.close()


def serve(daemon, folder, reads):
    """The first point is an empty disk, which needs no reading; the bytes come by a list of changed extents."""
    empty = f"{folder}/empty.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", empty, str(HUGE)], check=True)
    daemon.call("backup", "image", "huge", empty)
    places = sorted(random.Random(4).sample(range(HUGE // CHUNK), 20_000))
    extents = f"{folder}/extents"
    pathlib.Path(extents).write_text("".join(f"{place * CHUNK} {CHUNK}\n" for place in places))
    source = Pattern(folder, "huge.raw", HUGE)
    try:
        started = time.monotonic()
        daemon.call("backup", "image", "huge", source.path, "--changed-extents", extents)
        good = tell("20,000 changed extents of 64 TiB", daemon.peak_mib(), time.monotonic() - started)
    finally:
        source.close()
    session = json.loads(daemon.call("recover", "start", "huge@2", "--json").stdout)
    started = time.monotonic()
    url = session["disks"][0]["urls"]["nbd"]
    subprocess.run(["/usr/bin/python3", "-c", READ, url, extents, str(reads)], check=True)
    return tell(f"{reads} random reads of 64 TiB", daemon.peak_mib(), time.monotonic() - started) and good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=int, default=100)
    parser.add_argument("--reads", type=int, default=100_000)
    parser.add_argument("--folder", default="/var/tmp")
    parser.add_argument("--holdfast")
    arguments = parser.parse_args()
    room = shutil.disk_usage(arguments.folder).free - arguments.gib * GIB // 8
    if room < 25 * GIB:
        sys.exit(f"{arguments.folder} would have {room // GIB} GiB left; choose a smaller --gib or another --folder")
    if arguments.holdfast is None:
        subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "holdfast"], cwd=TREE, check=True)
    holdfast = arguments.holdfast or str(TREE / "target/release/holdfast")
    folder = tempfile.mkdtemp(prefix="holdfast-memory-", dir=arguments.folder)
    store = f"{folder}/repository"
    subprocess.run([holdfast, "init", store], check=True, stdout=subprocess.DEVNULL)
    daemon = Daemon(holdfast, folder, store)
    try:
        good = ingest(daemon, folder, arguments.gib)
        good = serve(daemon, folder, arguments.reads) and good
    finally:
        daemon.process.terminate()
        daemon.process.wait()
        shutil.rmtree(folder)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
