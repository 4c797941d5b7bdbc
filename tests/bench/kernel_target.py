#!/usr/bin/env python3
"""One recovered disk through three roads, in one guest: our iSCSI target, the kernel's iSCSI target with our disk behind it
(TCMU), and the kernel's loopback fabric with it (no network).

    tests/bench/kernel_target.py [--rounds N] [--seconds N] [--holdfast FILE] [--guest FOLDER]

The guest is that of `deploy/guest make --kind test`, with two processors, under emulation: rates say nothing about a real
machine, their ratios say what each road costs. The disk fits the daemon's caches. Roads take turns within a round, and
the best of the rounds counts. CPU is the daemon's own (user and system, from /proc/PID/stat) and that of the whole guest
(initiator, target and fio with it), per operation. --holdfast measures a binary that is there instead of building one.
"""
import argparse
import pathlib
import re
import shutil
import subprocess
import tempfile

TREE = pathlib.Path(__file__).resolve().parents[2]
ROADS = ["own iSCSI", "LIO iSCSI + TCMU", "loopback + TCMU"]
# Name, fio's words.
WORKLOADS = [
    ("4 KiB read d1", "--rw=randread --bs=4k --iodepth=1"),
    ("4 KiB read d32", "--rw=randread --bs=4k --iodepth=32"),
    ("64 KiB read d32", "--rw=randread --bs=64k --iodepth=32"),
    ("1 MiB read d4", "--rw=read --bs=1M --iodepth=4"),
    ("4 KiB write d1", "--rw=randwrite --bs=4k --iodepth=1"),
    ("4 KiB write d32", "--rw=randwrite --bs=4k --iodepth=32"),
    ("64 KiB write d32", "--rw=randwrite --bs=64k --iodepth=32"),
    ("1 MiB write d4", "--rw=write --bs=1M --iodepth=4"),
]

IN_THE_GUEST = r"""
set -e
export LD_LIBRARY_PATH=/programs/lib HOLDFAST_STATE=/srv/repository/daemon PATH=/programs:$PATH
mkdir -p /etc/target/pr /run/lock/iscsi
for module in target_core_user tcm_loop iscsi_target_mod sd_mod iscsi_tcp; do modprobe $module; done
mount -t configfs configfs /sys/kernel/config
head -c 64M /dev/urandom >/srv/image
holdfast init /srv/repository >/dev/null
(setsid holdfast serve --repository /srv/repository >/srv/log 2>&1 &)
for n in $(seq 100); do holdfast recover list >/dev/null 2>&1 && break; sleep 0.3; done
holdfast backup image web /srv/image >/dev/null 2>&1
holdfast recover start web@1 --name lab --protocol iscsi,tcmu >/dev/null
target=/sys/kernel/config/target
backstore=$(echo $target/core/user_*/lab-disk-0)
echo InitiatorName=iqn.2026-01.test:guest >/etc/iscsi/initiatorname.iscsi
sed -i '/^iscsid.startup/d;/noop_out/d' /etc/iscsi/iscsid.conf
iscsid
disks() { ls -d /sys/class/scsi_disk/*/device/block/* 2>/dev/null | sed 's,.*/,,' | sort; }
# Runs its words and says which disk has come by that.
disk_of() {
    before=$(disks)
    "$@" >/dev/null
    for n in $(seq 100); do
        for disk in $(disks); do
            case " $(echo $before) " in *" $disk "*) ;; *) echo /dev/$disk; return ;; esac
        done
        sleep 0.3
    done
    exit 1
}
log_in() { iscsiadm -m node -T $1 -p $2 -o new && iscsiadm -m node -T $1 -p $2 --login; }
own=$(disk_of log_in iqn.2026-01.holdfast:lab 127.0.0.1:3260)
group=$target/iscsi/iqn.2026-01.holdfast:lab.lio/tpgt_1
mkdir -p $group/np/127.0.0.1:3261
echo 1 >$group/attrib/generate_node_acls
echo 0 >$group/attrib/demo_mode_write_protect
echo 0 >$group/attrib/authentication
mkdir $group/lun/lun_0 && ln -s $backstore $group/lun/lun_0/holdfast
echo 1 >$group/enable
lio=$(disk_of log_in iqn.2026-01.holdfast:lab.lio 127.0.0.1:3261)
group=$target/loopback/naa.5001405000000002/tpgt_1
mkdir -p $group
echo naa.5001405000000099 >$group/nexus
show() { mkdir $group/lun/lun_0 && ln -s $backstore $group/lun/lun_0/holdfast; }
loop=$(disk_of show)
daemon=$(pidof holdfast)
daemon_ticks() { awk '{ print $14 + $15 }' /proc/$daemon/stat; }
busy_ticks() { awk '/^cpu / { print $2 + $3 + $4 + $7 + $8 }' /proc/stat; }
measure() {
    words=$(echo "$2" | sed 's/_/ /g')
    ours=$(daemon_ticks) all=$(busy_ticks)
    fio --minimal --name=m --filename=$1 --ioengine=libaio --direct=1 --time_based --runtime=SECONDS --randrepeat=0 $words >/run/fio
    ours=$(($(daemon_ticks) - ours)) all=$(($(busy_ticks) - all))
    awk -F';' -v ours=$ours -v all=$all '{ kib = $6 + $47; rate = $8 + $49; ms = $9 + $50; ops = rate * ms / 1000;
        printf "ROW %s %s %.1f %.1f %.1f\n", "'"$3"'", "'"$4"'", rate, ours * 10000 / ops, all * 10000 / ops }' /run/fio
}
dd if=$own of=/dev/null bs=1M status=none
MEASURES
echo 'ALL'' DONE'
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--holdfast", type=pathlib.Path)
    parser.add_argument("--guest", type=pathlib.Path, default=TREE / "target/guest/test")
    arguments = parser.parse_args()
    program = arguments.holdfast or build()
    with tempfile.TemporaryDirectory(prefix="kernel-target-") as folder:
        folder = pathlib.Path(folder)
        script = IN_THE_GUEST.replace("SECONDS", str(arguments.seconds)).replace("MEASURES", measures(arguments.rounds))
        programs = programs_disk(folder, program, script)
        own = folder / "own.raw"
        run("cp", "--sparse=always", arguments.guest / "disk-1.raw", own)
        rows = boot_and_measure(arguments.guest, own, programs)
    report(rows)


def build():
    subprocess.run(["cargo", "build", "--release", "--package", "holdfast", "--bin", "holdfast"], cwd=TREE, check=True)
    return TREE / "target/release/holdfast"


def measures(rounds):
    lines = []
    for _ in range(rounds):
        for number, (_, words) in enumerate(WORKLOADS):
            for road, disk in enumerate(["$own", "$lio", "$loop"]):
                lines.append(f"measure {disk} '{words.replace(' ', '_')}' {road} {number}")
    return "\n".join(lines)


def programs_disk(folder, program, script):
    """An ext4 image with the daemon, its libraries, and the script."""
    tree = folder / "tree"
    (tree / "lib").mkdir(parents=True)
    run("strip", "--strip-debug", "-o", tree / "holdfast", program)
    for path in re.findall(r"=> (/\S+)", run("ldd", program)):
        shutil.copy(path, tree / "lib")
    (tree / "bench").write_text(script)
    image = folder / "programs.raw"
    run("truncate", "-s", "256M", image)
    run("mkfs.ext4", "-q", "-F", "-d", tree, image)
    return image


def boot_and_measure(guest, own, programs):
    machine = (guest / "qemu").read_text().split("\n")[:-1]
    command = ["qemu-system-x86_64", *machine, "-smp", "2", "-m", "1024", "-serial", "stdio",
               "-kernel", guest / "vmlinuz", "-initrd", guest / "initrd", "-append", (guest / "cmdline").read_text().strip()]
    for drive in (own, programs):
        command += ["-drive", f"if=virtio,format=raw,file={drive}"]
    qemu = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        return converse(qemu)
    finally:
        qemu.kill()
        qemu.wait()


def converse(qemu):
    """Logs in, starts the script, and takes its rows."""
    steps = [(b"login: ", b"root\n"), (b"$ ", b"mkdir -p /programs && mount /dev/vdb /programs && bash /programs/bench\n")]
    rows, line = {}, b""
    while True:
        byte = qemu.stdout.read(1)
        if not byte:
            raise SystemExit("the guest ended before its script")
        line += byte
        if steps and line.endswith(steps[0][0]):
            qemu.stdin.write(steps.pop(0)[1])
            qemu.stdin.flush()
        if byte != b"\n":
            continue
        text, line = line.decode(errors="replace").strip(), b""
        if found := re.search(r"ROW (\d) (\d) (\S+) (\S+) (\S+)", text):
            road, workload = int(found[1]), int(found[2])
            rows.setdefault((workload, road), []).append([float(found[at]) for at in (3, 4, 5)])
            print(f"{WORKLOADS[workload][0]:18} {ROADS[road]:18} {found[3]:>9}/s", flush=True)
        elif "ALL DONE" in text:
            return rows
        elif not steps and text and "mount" not in text:
            print(text, flush=True)


def report(rows):
    print(f"\n{'':18}" + "".join(f"{road:>34}" for road in ROADS) + "     rate : own")
    print(f"{'':18}" + f"{'ops/s':>12}{'daemon us':>11}{'all us':>11}" * len(ROADS))
    for number, (name, _) in enumerate(WORKLOADS):
        best = []
        for road in range(len(ROADS)):
            rounds = rows[number, road]
            best.append([max(r[0] for r in rounds), min(r[1] for r in rounds), min(r[2] for r in rounds)])
        cells = "".join(f"{rate:12.0f}{ours:11.0f}{everything:11.0f}" for rate, ours, everything in best)
        ratios = "  ".join(f"{rate / best[0][0]:.2f}" for rate, _, _ in best[1:])
        print(f"{name:18}{cells}     {ratios}")


def run(*command):
    done = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


if __name__ == "__main__":
    main()
