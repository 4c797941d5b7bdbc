#!/usr/bin/env python3
"""The daemon serving a point and an overlay, against nbdkit, qemu-nbd, nfs-ganesha and tgt serving a raw file.

    tests/bench/serving.py [--rounds N] [--mib N] [--only nbd|nfs|iscsi] [--rows PATTERN] [--holdfast FILE]

Prints for each workload the server's CPU time per operation (user and system, from /proc/PID/stat, least of the
rounds) and the wall rate (best of the rounds), with the ratio peer : ours. Servers take turns within a round. The disk
fits the caches of all of them, so this is the cost of serving; reads that miss are measured by repo/benches/peers.py.
--rows takes the workloads whose names match; --holdfast measures a binary that is there instead of building one.
Needs root (ports 111 on loopback addresses), qemu-img, nbdkit, qemu-nbd, for NFS ganesha.nfsd, and for iSCSI tgtd and
iscsi-perf.
"""
import argparse
import json
import os
import pathlib
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

from measure import MIB, TICK, WORKLOADS, qemu_bench, start_tgt, ticks, timed

TREE = pathlib.Path(__file__).resolve().parents[2]
OURS, GANESHA, GANESHA_RPCBIND, TGT = "127.0.12.1", "127.0.12.2", "127.0.12.3", "127.0.12.4"
TGT_CONTROL = "12"


class Server:
    """A process and the addresses at which it shows the same disk."""

    def __init__(self, name, process, url, writable=True):
        self.name, self.process, self.url, self.writable = name, process, url, writable

    def ticks(self):
        return ticks(self.process)

    def run(self, count, *workload):
        """CPU microseconds and operations a second."""
        return timed(self.process, count, lambda: qemu_bench(self.url, count, *workload))


def wait_for(url):
    for _ in range(200):
        if subprocess.run(["qemu-img", "info", "-f", "raw", url], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, timeout=10).returncode == 0:
            return
        time.sleep(0.1)
    sys.exit(f"{url} does not answer")


def start_ours(folder, disk, holdfast):
    """The daemon with one session to read from and one to write to."""
    if holdfast is None:
        subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "holdfast"], cwd=TREE, check=True)
        holdfast = str(TREE / "target/release/holdfast")
    store = f"{folder}/repository"
    subprocess.run([holdfast, "init", store], check=True, stdout=subprocess.DEVNULL)
    configuration = f"{folder}/holdfast.toml"
    pathlib.Path(configuration).write_text(f"""
[repository]
path = "{store}"
chunk_cache = "512MiB"
[api]
listen = "127.0.0.1:0"
[nbd]
listen = "127.0.0.1:0"
[nfs]
listen = "{OURS}:2049"
portmapper = "{OURS}:111"
[iscsi]
listen = ["127.0.0.1:0"]
[log]
filter = "warn"
""")
    daemon = subprocess.Popen([holdfast, "serve", "--config", configuration])
    state = ["--state", f"{store}/daemon"]

    def call(*words):
        done = subprocess.run([holdfast, *words, *state, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        return json.loads(done.stdout) if done.returncode == 0 else None

    for _ in range(100):
        if call("point", "list") is not None:
            break
        time.sleep(0.1)
    assert call("backup", "image", "bench", disk), "the backup failed"
    sessions = {"point": call("recover", "start", "bench@1", "--read-only"), "overlay": call("recover", "start", "bench@1")}
    return daemon, {name: session["disks"][0]["urls"] for name, session in sessions.items()}


def start_portmapper(address, ports):
    """Answers GETPORT for a peer that can only register with rpcbind."""
    def answer(client):
        try:
            while len(mark := client.recv(4, socket.MSG_WAITALL)) == 4:
                call = client.recv(struct.unpack(">I", mark)[0] & 0x7FFFFFFF, socket.MSG_WAITALL)
                port = ports.get(struct.unpack(">I", call[-16:-12])[0], 0)
                body = struct.pack(">I", port) if struct.unpack(">I", call[20:24])[0] == 3 else b""
                reply = call[:4] + struct.pack(">5I", 1, 0, 0, 0, 0) + body
                client.sendall(struct.pack(">I", 0x80000000 | len(reply)) + reply)
        except OSError:
            pass

    def serve(listener):
        while True:
            threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, args=(socket.create_server((address, 111)),), daemon=True).start()


def start_ganesha(folder, share):
    configuration = f"{folder}/ganesha.conf"
    pathlib.Path(configuration).write_text(f"""
NFS_CORE_PARAM {{ Protocols = 3; Enable_NLM = false; Enable_RQUOTA = false; Bind_addr = {GANESHA}; NFS_Port = 2049; MNT_Port = 20048; }}
EXPORT {{ Export_Id = 77; Path = {share}; Pseudo = /g; Access_Type = RW; Squash = No_Root_Squash; SecType = sys; Protocols = 3;
  Transports = TCP; Filesystem_id = 1.1; PrefRead = 1048576; PrefWrite = 1048576; MaxRead = 1048576; MaxWrite = 1048576;
  FSAL {{ Name = VFS; }} }}
""")
    start_portmapper(GANESHA, {100003: 2049, 100005: 20048})
    helpers = []
    if subprocess.run(["rpcinfo", "-p", "127.0.0.1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        helpers.append(subprocess.Popen(["rpcbind", "-f", "-h", GANESHA_RPCBIND]))
        time.sleep(1)
    ganesha = subprocess.Popen(["ganesha.nfsd", "-F", "-L", f"{folder}/ganesha.log", "-f", configuration, "-p",
                                f"{folder}/ganesha.pid"])
    return ganesha, helpers


def iscsi_perf(servers, rounds):
    """Random reads as iscsi-perf does them: IOPS and CPU, best of the rounds."""
    print("\niscsi-perf, random reads: server CPU us/op, operations/s")
    names = [server.name for server in servers]
    print("| depth, blocks | " + " | ".join(names) + " |\n|---" + "|---" * len(names) + "|")
    for depth, blocks in ((1, 8), (32, 8), (32, 128), (8, 2048)):
        best = {name: (float("inf"), 0.0) for name in names}
        for _ in range(rounds):
            for server in servers:
                before = server.ticks()
                # It does not end when it is asked to; its report comes every second.
                done = subprocess.run(["timeout", "-s", "KILL", "10", "stdbuf", "-o0", "iscsi-perf", "-m", str(depth), "-b",
                                       str(blocks), "-r", "-t", "3", server.url], stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, text=True)
                rates = [float(rate) for rate in re.findall(r"iops average (\d+)", done.stdout)]
                if not rates:
                    continue
                cpu = (server.ticks() - before) / TICK * 1e6 / max(rates[-1] * 3, 1)
                best[server.name] = (min(best[server.name][0], cpu), max(best[server.name][1], rates[-1]))
        print(f"| m{depth}, b{blocks} | " + " | ".join(f"{cpu:.1f}, {rate:.0f}" for cpu, rate in best.values()) + " |")
    sys.stdout.flush()


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def measure(servers, rounds):
    for server in servers:
        wait_for(server.url)
    best = {}
    for _ in range(rounds):
        for name, count, depth, size, step, writing in WORKLOADS:
            for server in servers:
                if writing and not server.writable:
                    continue
                cpu, rate = server.run(count, depth, size, step, writing)
                old = best.get((name, server.name), (float("inf"), 0.0))
                best[name, server.name] = (min(old[0], cpu), max(old[1], rate))
    return best


def tell(title, servers, best):
    print(f"\n{title}: server CPU us/op, operations/s (and peer : our overlay)")
    names = [server.name for server in servers]
    print("| workload | " + " | ".join(names) + " |\n|---" + "|---" * len(names) + "|")
    for name, *_ in WORKLOADS:
        ours = best[name, next(n for n in names if n.startswith("overlay"))]
        cells = []
        for server in names:
            if (name, server) not in best:
                cells.append("-")
                continue
            cpu, rate = best[name, server]
            ratio = "" if server.startswith(("overlay", "point")) else f" ({cpu / max(ours[0], .01):.1f}x CPU, {rate / ours[1]:.2f}x rate)"
            cells.append(f"{cpu:.1f}, {rate:.0f}{ratio}")
        print(f"| {name} | " + " | ".join(cells) + " |")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, default=192)
    parser.add_argument("--only", choices=["nbd", "nfs", "iscsi"])
    parser.add_argument("--rows", default="")
    parser.add_argument("--holdfast")
    arguments = parser.parse_args()
    WORKLOADS[:] = [workload for workload in WORKLOADS if re.search(arguments.rows, workload[0])]
    folder = tempfile.mkdtemp(prefix="holdfast-serving-", dir="/var/tmp")
    share = f"{folder}/share"
    os.mkdir(share)
    disk = f"{share}/disk.raw"
    generator = random.Random(3)
    with open(disk, "wb") as file:
        for _ in range(arguments.mib):
            file.write(generator.randbytes(MIB))
    processes = []
    try:
        daemon, urls = start_ours(folder, disk, arguments.holdfast)
        processes.append(daemon)
        if arguments.only in (None, "nbd"):
            port = free_port()
            nbdkit_tcp = subprocess.Popen(["nbdkit", "-f", "-i", "127.0.0.1", "-p", str(port), "file", disk])
            nbdkit_unix = subprocess.Popen(["nbdkit", "-f", "-U", f"{folder}/nbdkit.sock", "file", disk])
            qemu = subprocess.Popen(["qemu-nbd", "-f", "raw", "-t", "-e", "16", "-k", f"{folder}/qemu.sock",
                                     "--cache=writeback", "--aio=threads", disk])
            processes += [nbdkit_tcp, nbdkit_unix, qemu]
            servers = [
                Server("point tcp", daemon, urls["point"]["nbd"], writable=False),
                Server("overlay tcp", daemon, urls["overlay"]["nbd"]),
                Server("nbdkit file tcp", nbdkit_tcp, f"nbd://127.0.0.1:{port}"),
            ]
            tell("NBD over TCP", servers, measure(servers, arguments.rounds))
            servers = [
                Server("point unix", daemon, urls["point"]["nbd_unix"], writable=False),
                Server("overlay unix", daemon, urls["overlay"]["nbd_unix"]),
                Server("nbdkit file unix", nbdkit_unix, f"nbd+unix:///?socket={folder}/nbdkit.sock"),
                Server("qemu-nbd unix", qemu, f"nbd+unix:///?socket={folder}/qemu.sock"),
            ]
            tell("NBD over a unix socket", servers, measure(servers, arguments.rounds))
        if arguments.only in (None, "nfs"):
            ganesha, helpers = start_ganesha(folder, share)
            processes += [ganesha, *helpers]
            plain = {name: one["nfs"].replace(":2049", "") for name, one in urls.items()}
            servers = [
                Server("point nfs", daemon, plain["point"], writable=False),
                Server("overlay nfs", daemon, plain["overlay"]),
                Server("ganesha", ganesha, f"nfs://{GANESHA}{disk}"),
            ]
            tell("NFS", servers, measure(servers, arguments.rounds))
        if arguments.only in (None, "iscsi"):
            tgtd, url = start_tgt(TGT, TGT_CONTROL, "iqn.2026-01.bench:tgt", disk)
            processes.append(tgtd)
            servers = [
                Server("point iscsi", daemon, urls["point"]["iscsi"][0], writable=False),
                Server("overlay iscsi", daemon, urls["overlay"]["iscsi"][0]),
                Server("tgt", tgtd, url),
            ]
            tell("iSCSI", servers, measure(servers, arguments.rounds))
            iscsi_perf(servers, arguments.rounds)
        rss = pathlib.Path(f"/proc/{daemon.pid}/status").read_text().split("VmHWM:")[1].split()[0]
        print(f"\nthe daemon's largest memory: {int(rss) // 1024} MiB")
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
