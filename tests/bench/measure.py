"""What the benches of servers share: workloads, CPU time of a process, qemu-img bench, tgt, and what TCP alone costs."""
import os
import pathlib
import socket
import struct
import subprocess
import sys
import time

MIB = 1 << 20
TICK = os.sysconf("SC_CLK_TCK")

# Name, operations, depth, bytes, step, writing. A step of a few KiB more than the size stands for random places.
WORKLOADS = [
    ("1 MiB read d1", 400, 1, MIB, MIB, False),
    ("1 MiB read d8", 800, 8, MIB, MIB, False),
    ("64 KiB read d32", 6000, 32, 65536, 1114112, False),
    ("4 KiB read d1", 8000, 1, 4096, 1052672, False),
    ("4 KiB read d32", 30000, 32, 4096, 1052672, False),
    ("1 MiB write d8", 300, 8, MIB, MIB, True),
    ("64 KiB write d32", 3000, 32, 65536, 1114112, True),
    ("4 KiB write d1", 6000, 1, 4096, 1052672, True),
    ("4 KiB write d32", 20000, 32, 4096, 1052672, True),
]


def ticks(process):
    """User and system time of a process so far."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def timed(process, count, work):
    """CPU microseconds of the process for each of `count` operations that `work` does, and operations a second."""
    before, started = ticks(process), time.monotonic()
    work()
    wall = time.monotonic() - started
    return (ticks(process) - before) / TICK * 1e6 / count, count / wall


def qemu_bench(url, count, depth, size, step, writing):
    command = ["qemu-img", "bench", "-q", "-f", "raw", "-t", "none", "-c", str(count), "-d", str(depth), "-s", str(size),
               "-S", str(step)] + (["-w", "--pattern", "7"] if writing else []) + [url]
    subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL)


def bare_bench(address, count, depth, size, _step, writing):
    """The same sizes and depth against the example bare_socket."""
    request = struct.pack(">II", int(writing), size) + bytes(40) + (bytes(size) if writing else b"")
    reply, room = 48 if writing else size, bytearray(MIB)
    with socket.create_connection(address) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sent = done = there = 0
        while done < count:
            # A peer that sends much and is read from by nobody would wait for ever.
            while sent < count and sent - done < (1 if writing else depth):
                peer.sendall(request)
                sent += 1
            there += peer.recv_into(room)
            done, there = done + there // reply, there % reply


def start_tgt(address, control, name, image):
    """tgt with one target that has `image` as logical unit 1; gives the process and the URL."""
    tgtd = subprocess.Popen(["tgtd", "-f", "-C", control, "--iscsi", f"portal={address}:3260"], stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL)
    for words in (f"--op new --mode target --tid 1 -T {name}",
                  f"--op new --mode logicalunit --tid 1 --lun 1 -b {image} --bstype rdwr",
                  "--op bind --mode target --tid 1 -I ALL"):
        command = ["tgtadm", "-C", control, "--lld", "iscsi", *words.split()]
        for _ in range(50):
            if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
                break
            time.sleep(0.1)
        else:
            sys.exit(f"tgtadm {words} failed")
    return tgtd, f"iscsi://{address}:3260/{name}/1"
