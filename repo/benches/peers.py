#!/usr/bin/env python3
"""The engine against restic, borg and qemu-img: same data, same machine, same run.

    repo/benches/peers.py [--image FILE] [--dense-mib N] [--rounds N] [--folder DIR]

Builds `benches/engine.rs`, makes a dense data set (half random bytes, half pieces of source text) or takes a disk
image, and prints a table: wall seconds, CPU seconds, bytes stored, and the ratio to ours. All tools take their turn in
each round; the medians of the rounds are shown. Then follow what no verification can exceed (a sequential read of what
is stored, and two threads that decompress and hash), what parity costs a backup, and random reads. Peers that are not
installed are left out and named. With ENCRYPTED=1 in the environment ours is an encrypted repository. Each repository
is made below --folder, which needs room for some ten times the data.
"""
import argparse
import json
import os
import pathlib
import random
import resource
import shutil
import statistics
import subprocess
import sys
import time

TREE = pathlib.Path(__file__).resolve().parents[2]
MIB = 1 << 20


def build_engine():
    """Builds the engine's measuring program and gives its path."""
    command = ["cargo", "build", "--release", "-p", "repo", "--bench", "engine", "--message-format=json"]
    output = subprocess.run(command, cwd=TREE, check=True, stdout=subprocess.PIPE, text=True).stdout
    for line in output.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "engine":
            return message["executable"]
    sys.exit("cargo built no engine")


def make_dense(path, mib):
    """Half random bytes, half shuffled pieces of the Python library's source."""
    generator = random.Random(1)
    sources = sorted(pathlib.Path(os.__file__).parent.rglob("*.py"))
    text = b"".join(source.read_bytes() for source in sources)[: 64 * MIB]
    with open(path, "wb") as file:
        for _ in range(mib // 2):
            file.write(generator.randbytes(MIB))
        for _ in range(mib // 2):
            pieces, length = [], 0
            while length < MIB:
                size = generator.randint(64, 1264)
                start = generator.randrange(len(text) - size)
                pieces.append(text[start:start + size])
                length += size
            file.write(b"".join(pieces)[:MIB])


def change(path, extents_path):
    """Changes 1 % of the file in 4 KiB blocks at random places, and lists them."""
    generator = random.Random(2)
    blocks = os.path.getsize(path) // 4096
    places = sorted(generator.sample(range(blocks), max(1, blocks // 100)))
    with open(path, "r+b") as file, open(extents_path, "w") as extents:
        for place in places:
            file.seek(place * 4096)
            file.write(generator.randbytes(4096))
            extents.write(f"{place * 4096} 4096\n")
    os.sync()


def drop_from_cache(path):
    subprocess.run(["dd", f"if={path}", "iflag=nocache", "count=0", "status=none"], check=True)


def run(command, environment=None, cwd=None):
    """Wall seconds, CPU seconds, and what was printed."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, env={**os.environ, **(environment or {})}, cwd=cwd, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"{command} failed: {done.stderr}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, done.stdout


def size_of(folder):
    root = pathlib.Path(folder)
    files = [root] if root.is_file() else root.rglob("*")
    return sum(file.stat().st_blocks * 512 for file in files if file.is_file())


class Tool:
    def settle(self):
        """Waits for what is made in the background."""


class Ours(Tool):
    name = "holdfast"

    def __init__(self, engine, folder):
        self.engine, self.store = engine, f"{folder}/ours"

    def back_up(self, data):
        return run([self.engine, "ingest", self.store, data])

    def restore(self, out):
        return run([self.engine, "restore", self.store, out])

    def settle(self):
        run([self.engine, "parity", self.store])

    def verify(self):
        return run([self.engine, "verify", self.store])


class Restic(Tool):
    name = "restic"

    def __init__(self, folder):
        self.store, self.environment = f"{folder}/restic", {"RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": f"{folder}/c"}
        self.call("init", "--repository-version", "2")

    def call(self, *words):
        return run(["restic", "-r", self.store, *words], self.environment)

    def back_up(self, data):
        return self.call("backup", "--force", "--compression", "auto", data)

    def restore(self, out):
        return self.call("restore", "latest", "-t", out + ".folder")

    def verify(self):
        return self.call("check", "--read-data")


class Borg(Tool):
    name = "borg 64K zstd"

    def __init__(self, folder):
        self.store, self.number = f"{folder}/borg", 0
        self.folder = folder
        self.environment = {"BORG_PASSPHRASE": "bench", "BORG_BASE_DIR": f"{folder}/borg-home"}
        run(["borg", "init", "-e", "repokey-blake2", self.store], self.environment)

    def back_up(self, data):
        self.number += 1
        return run(["borg", "create", "--files-cache=disabled", "-C", "zstd,1", "--chunker-params", "fixed,65536",
                    f"{self.store}::a{self.number}", data], self.environment)

    def restore(self, out):
        os.makedirs(out + ".folder", exist_ok=True)
        return run(["borg", "extract", "--sparse", f"{self.store}::a{self.number}"], self.environment, out + ".folder")

    def verify(self):
        return run(["borg", "check", "--verify-data", self.store], self.environment)


class QemuImg(Tool):
    name = "qemu-img -c zstd"

    def __init__(self, folder):
        self.store = f"{folder}/a.qcow2"

    def back_up(self, data):
        return run(["qemu-img", "convert", "-m", "16", "-W", "-c", "-f", "raw", "-O", "qcow2", "-o",
                    "compression_type=zstd", data, self.store])

    def restore(self, out):
        return run(["qemu-img", "convert", "-m", "16", "-W", "-f", "qcow2", "-O", "raw", self.store, out])

    def verify(self):
        return None


def measure(tool, data, out):
    """One tool through backup, rescan, restore and verify."""
    rows = {}
    for step, action in [("first backup", lambda: tool.back_up(data)), ("again, unchanged", lambda: tool.back_up(data)),
                         ("restore", lambda: tool.restore(out)), ("verify", tool.verify)]:
        if step == "verify":
            tool.settle()
        drop_from_cache(data)
        drop_all_below(tool.store)
        result = action()
        if result:
            rows[step] = result[:2]
        if step == "first backup":
            rows["stored MB"] = (size_of(tool.store) / 1e6, None)
    shutil.rmtree(out + ".folder", ignore_errors=True)
    pathlib.Path(out).unlink(missing_ok=True)
    return rows


def drop_all_below(folder):
    """What was just written is read from the disk again, by all alike."""
    root = pathlib.Path(folder)
    for file in [root] if root.is_file() else root.rglob("*"):
        if file.is_file():
            subprocess.run(["dd", f"of={file}", "oflag=nocache", "conv=notrunc,fdatasync", "count=0", "status=none"])


def medians(rounds):
    """The rows of several rounds as one."""
    def middle(values):
        return None if values[0] is None else statistics.median(values)
    return {step: tuple(middle([rows[step][part] for rows in rounds]) for part in range(2)) for step in rounds[0]}


def tell_limits(engine, data, store, verify):
    """Our verification beside what it cannot exceed."""
    packs = [file for file in pathlib.Path(store, "packs").rglob("*") if file.is_file() and file.suffix != ".parity"]
    reading = 0.0
    for pack in packs:
        reading += run(["dd", f"if={pack}", "iflag=direct", "bs=4M", "of=/dev/null", "status=none"])[0]
    stored = sum(pack.stat().st_size for pack in packs)
    decoding = json.loads(run([engine, "limit", data])[2])["seconds"]
    print(f"verify: {verify[0]:.2f} s of {stored / 1e6:.0f} MB; reading them in order takes {reading:.2f} s,"
          f" decompressing and hashing on two threads {decoding:.2f} s: {verify[0] / max(reading, decoding):.2f} of the slower")


def tell_parity(engine, folder, data, rounds):
    """A first backup without parity, and one that waits until it is made."""
    costs = {"none": [], "wait": []}
    for _ in range(rounds):
        for mode, found in costs.items():
            store = f"{folder}/parity-{mode}"
            shutil.rmtree(store, ignore_errors=True)
            drop_from_cache(data)
            found.append(run([engine, "ingest", store, data], {"PARITY": mode})[:2])
    (wall, cpu), (wall_with, cpu_with) = ([statistics.median(part) for part in zip(*costs[mode])] for mode in costs)
    bytes_of = {suffix: sum(file.stat().st_size for file in pathlib.Path(f"{folder}/parity-wait/packs").rglob("*")
                            if file.is_file() and (file.suffix == ".parity") == suffix) for suffix in (False, True)}
    print(f"parity: first backup without {wall:.2f} s, {cpu:.2f} CPU s; until it is made {wall_with:.2f} s,"
          f" {cpu_with:.2f} CPU s ({wall_with / wall:.2f}x, {cpu_with / cpu:.2f}x);"
          f" {bytes_of[True] / 1e6:.1f} MB beside {bytes_of[False] / 1e6:.1f} MB ({bytes_of[True] / bytes_of[False]:.2%})")
    for mode in costs:
        shutil.rmtree(f"{folder}/parity-{mode}", ignore_errors=True)


def tell(table):
    ours = table[0][1]
    print(f"\n{'':22}" + "".join(f"{name:>27}" for name, _ in table))
    for step in ours:
        cells = []
        for _, rows in table:
            wall, cpu = rows.get(step, (None, None))
            if wall is None:
                cells.append(f"{'-':>27}")
                continue
            text = f"{wall:.1f}" if cpu is None else f"{wall:.1f} s / {cpu:.1f} CPU"
            ratio = f" ({wall / ours[step][0]:.1f}x" + (f", {cpu / max(ours[step][1], .01):.1f}x)" if cpu else ")")
            cells.append(f"{text + ratio:>27}")
        print(f"{step:22}" + "".join(cells))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", help="a raw disk image instead of dense data")
    parser.add_argument("--dense-mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", default="/var/tmp/holdfast-bench")
    arguments = parser.parse_args()
    engine = build_engine()
    shutil.rmtree(arguments.folder, ignore_errors=True)
    os.makedirs(arguments.folder)
    data = f"{arguments.folder}/data.raw"
    if arguments.image:
        shutil.copyfile(arguments.image, data)
    else:
        make_dense(data, arguments.dense_mib)
    os.sync()
    tools = {"": lambda: Ours(engine, arguments.folder), "restic": lambda: Restic(arguments.folder),
             "borg": lambda: Borg(arguments.folder), "qemu-img": lambda: QemuImg(arguments.folder)}
    for name in [name for name in tools if name and not shutil.which(name)]:
        print(f"{name} is not installed and left out")
        del tools[name]
    rounds = {name: [] for name in tools}
    for number in range(arguments.rounds):
        for name, make in tools.items():
            tool = make()
            rounds[name].append((tool.name, measure(tool, data, f"{arguments.folder}/out.raw")))
            if name or number + 1 < arguments.rounds:
                shutil.rmtree(tool.store) if os.path.isdir(tool.store) else os.remove(tool.store)
            for left in ["borg-home", "c"]:
                shutil.rmtree(f"{arguments.folder}/{left}", ignore_errors=True)
    table = [(found[0][0], medians([rows for _, rows in found])) for found in rounds.values()]
    tell(table)
    store = f"{arguments.folder}/ours"
    tell_limits(engine, data, store, table[0][1]["verify"])
    tell_parity(engine, arguments.folder, data, arguments.rounds)
    for mode, count in [("cold", 5000), ("hot", 200000)]:
        figures = json.loads(run([engine, "read", store, "4096", str(count), mode])[2])
        print(f"4 KiB reads, {mode}: " + ", ".join(f"{key} {value / 1000:.1f} us" for key, value in figures.items()))
    change(data, f"{arguments.folder}/extents")
    drop_from_cache(data)
    for step, command in [("changed extents (1 % scattered)", [engine, "ingest", store, data, f"{arguments.folder}/extents"]),
                          ("the same by full read", [engine, "ingest", store, data])]:
        wall, cpu, output = run(command)
        print(f"{step}: {wall:.2f} s, {cpu:.2f} CPU s, {json.loads(output)['stored'] / 1e6:.1f} MB stored")
    wall, cpu, _ = run([engine, "restore", store, f"{arguments.folder}/out.raw"])
    same = subprocess.run(["cmp", data, f"{arguments.folder}/out.raw"]).returncode == 0
    print(f"restored and compared byte for byte: {'equal' if same else 'DIFFERENT'}")
    shutil.rmtree(arguments.folder)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
