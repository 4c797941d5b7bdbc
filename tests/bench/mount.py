#!/usr/bin/env python3
"""Files out of a backup by `holdfast mount`, beside the kernel's own mount of the same disk and the mounts of restic and borg.

    tests/bench/mount.py [--mib N] [--entries N] [--rounds N]     as root

Makes an ext4 image with a folder of N entries, 2,000 small files in 50 folders and one large file of N MiB; backs the image up with
Holdfast, and the same files with restic and borg (a repository without a password each). In every round each mount does the same,
cold (caches dropped, its server just started) and in this order. Prints the middle of the rounds and the ratio to the
kernel's mount. Debian: restic, borgbackup, e2fsprogs (deploy/packages, group bench).
"""
import argparse
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

TREE = pathlib.Path(__file__).resolve().parents[2]
MIB = 1 << 20
WORK = ["open", "ls", "ls -l", "walk", "small reads", "4 KiB random", "sequential"]
UNIT = {"open": "ms", "ls": "entries/s", "ls -l": "entries/s", "walk": "files/s", "small reads": "files/s",
        "4 KiB random": "1/s", "sequential": "MiB/s"}


def run(*command, **more):
    return subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL, **more)


def plant(folder, entries, mib):
    """The files of the guest."""
    many = folder / "many"
    many.mkdir(parents=True)
    for number in range(entries):
        (many / f"entry-{number:06}").touch()
    for number in range(2000):
        below = folder / "small" / f"folder-{number % 50:02}"
        below.mkdir(parents=True, exist_ok=True)
        (below / f"file-{number}").write_bytes(os.urandom(500 + number * 7))
    with open(folder / "large", "wb") as file:
        for _ in range(mib):
            file.write(os.urandom(MIB))


class Mount:
    """One way to the files: how it is mounted, where they are then, how it ends."""

    def __init__(self, name, command, inner, folder, environment=None):
        self.name, self.command, self.inner = name, command, inner
        self.point = folder / f"mount-{name}"
        self.point.mkdir()
        self.environment = {**os.environ, **(environment or {})}
        self.process = None

    def __enter__(self):
        started = time.monotonic()
        command = [str(word) for word in [*self.command, self.point]]
        self.process = subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (self.files() / "large").exists():
            if time.monotonic() - started > 120:
                sys.exit(f"{self.name} did not mount")
            time.sleep(0.002)
        self.opened = time.monotonic() - started
        return self

    def files(self):
        found = sorted(self.point.glob(self.inner))
        return found[0] if found else self.point / "nothing"

    def __exit__(self, *_):
        # Some are in use for a moment longer.
        for _ in range(100):
            if subprocess.run(["umount", self.point], stderr=subprocess.DEVNULL).returncode == 0:
                break
            time.sleep(0.1)
        self.process.wait(30)


def timed(work):
    started = time.monotonic()
    count = work()
    return count / (time.monotonic() - started)


def walk(folder):
    return sum(len(files) for _, _, files in os.walk(folder))


def small_reads(folder):
    count = 0
    for below, _, files in os.walk(folder):
        for name in files:
            with open(f"{below}/{name}", "rb") as file:
                file.read()
            count += 1
    return count


def random_reads(path, count=4000):
    places = random.Random(7)
    size = path.stat().st_size // 4096
    handle = os.open(path, os.O_RDONLY)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
    for _ in range(count):
        os.pread(handle, 4096, places.randrange(size) * 4096)
    os.close(handle)
    return count


def sequential(path):
    with open(path, "rb", buffering=0) as file:
        buffer, done = bytearray(MIB), 0
        while count := file.readinto(buffer):
            done += count
    return done / MIB


def list_long(folder):
    return sum(entry.stat(follow_symlinks=False).st_nlink > 0 for entry in os.scandir(folder))


def measure(mount):
    """One round: every kind of work once."""
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
    with mount:
        files = mount.files()
        return {
            "open": mount.opened * 1000,
            "ls": timed(lambda: len(os.listdir(files / "many"))),
            "ls -l": timed(lambda: list_long(files / "many")),
            "walk": timed(lambda: walk(files / "small")),
            "small reads": timed(lambda: small_reads(files / "small")),
            "4 KiB random": timed(lambda: random_reads(files / "large")),
            "sequential": timed(lambda: sequential(files / "large")),
        }


def show(results):
    kernel = {work: statistics.median(row[work] for row in results["kernel"]) for work in WORK}
    print("| | " + " | ".join(f"{name} | ratio" if name != "kernel" else name for name in results) + " |")
    print("|---" * (2 * len(results)) + "|")
    for work in WORK:
        cells = []
        for name, rows in results.items():
            value = statistics.median(row[work] for row in rows)
            cells.append(f"{value:,.0f}")
            if name != "kernel":
                cells.append(f"{value / kernel[work]:.2f}")
        print(f"| {work}, {UNIT[work]} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=2048)
    parser.add_argument("--entries", type=int, default=50000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    run("cargo", "build", "--release", "--quiet", "-p", "holdfast", cwd=TREE)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", TREE / "target"))
    holdfast = target / "release/holdfast"
    folder = pathlib.Path(tempfile.mkdtemp(prefix="holdfast-mount-", dir="/var/tmp"))
    plant(folder / "files", arguments.entries, arguments.mib)
    image = folder / "disk.raw"
    size = arguments.mib * 5 // 4 + 512
    run("mke2fs", "-q", "-t", "ext4", "-N", arguments.entries + 20000, "-d", folder / "files", image, f"{size}M")
    keys = {"RESTIC_PASSWORD": "none", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
    run("restic", "-q", "-r", folder / "restic", "init", env={**os.environ, **keys})
    run("restic", "-q", "-r", folder / "restic", "backup", ".", cwd=folder / "files", env={**os.environ, **keys})
    run("borg", "init", "-e", "none", folder / "borg", env={**os.environ, **keys})
    run("borg", "create", f"{folder}/borg::one", ".", cwd=folder / "files", env={**os.environ, **keys})
    store = folder / "repository"
    run(holdfast, "init", store)
    daemon = subprocess.Popen([holdfast, "serve", "--repository", store, "--any-ports", "--log", "warn"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = ["--state", store / "daemon"]
    try:
        while subprocess.run([holdfast, "stats", *state], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
            time.sleep(0.05)
        run(holdfast, "backup", "image", "guest", image, *state)
        shutil.rmtree(folder / "files")
        mounts = [
            Mount("kernel", ["mount", "-o", "loop,ro,noload", image], ".", folder),
            Mount("holdfast", [holdfast, *state, "mount", "guest@1"], "disk-0/disk", folder),
            Mount("restic", ["restic", "-r", folder / "restic", "mount"], "snapshots/latest", folder, keys),
            Mount("borg", ["borg", "mount", "-f", f"{folder}/borg::one"], ".", folder, keys),
        ]
        results = {mount.name: [] for mount in mounts}
        for _ in range(arguments.rounds):
            for mount in mounts:
                results[mount.name].append(measure(mount))
        show(results)
    finally:
        daemon.terminate()
        daemon.wait()
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
