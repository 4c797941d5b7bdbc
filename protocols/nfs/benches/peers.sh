#!/usr/bin/env bash
# Our server, nfs-ganesha and nfsserve on the same workloads, interleaved, three rounds. Prints server CPU per operation
# (user + system, from /proc/PID/stat, least of the rounds), the wall rate (best of the rounds) and both as ratios to ours.
#
# Needs root: each server owns port 111 of a loopback address of its own, because QEMU's nfs:// cannot name a port.
# All data is in RAM: ours and nfsserve's in the same MemoryTree, ganesha's on tmpfs. Takes about five minutes.
# Environment: ROUNDS (3), DISK_MIB (1024), TARGET (the cargo target folder).
set -euo pipefail
cd "$(dirname "$0")/../../.."
rounds=${ROUNDS:-3} size=${DISK_MIB:-1024} target=${TARGET:-target}
for program in qemu-img ganesha.nfsd rpcbind python3; do
    command -v "$program" >/dev/null || { echo "peers.sh: $program is missing" >&2; exit 1; }
done
cargo build --quiet --release -p nfs --features nfsserve --example nfs_serve_memory
work=$(mktemp -d) data=$(mktemp -d /dev/shm/peers.XXXXXX)
pids=()
finish() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work" "$data"
}
trap finish EXIT

server=$target/release/examples/nfs_serve_memory
"$server" 127.0.11.1:111 "$size" 2>"$work/ours.log" & pids+=($!); ours=$!
ENGINE=nfsserve "$server" 127.0.11.2:111 "$size" 2>"$work/nfsserve.log" & pids+=($!); nfsserve=$!

# ganesha registers with a running rpcbind; a few lines of Python are the port mapper at its own address.
mkdir "$data/x"
truncate -s "${size}M" "$data/x/disk.img"
qemu-img bench -f raw -w --pattern=72 -c "$size" -d 1 -s 1048576 -S 1048576 "$data/x/disk.img" >/dev/null
cat >"$work/ganesha.conf" <<CONF
NFS_CORE_PARAM { Protocols = 3; Enable_NLM = false; Enable_RQUOTA = false; Bind_addr = 127.0.11.3; NFS_Port = 2049; MNT_Port = 20048; }
EXPORT { Export_Id = 77; Path = $data; Pseudo = /g; Access_Type = RW; Squash = No_Root_Squash; SecType = sys; Protocols = 3;
  Transports = TCP; Filesystem_id = 1.1; PrefRead = 1048576; PrefWrite = 1048576; MaxRead = 1048576; MaxWrite = 1048576; FSAL { Name = VFS; } }
CONF
cat >"$work/portmap.py" <<'PYTHON'
import socket, struct, threading
ports = {100003: 2049, 100005: 20048}
def serve(client):
    try:
        answer(client)
    except OSError:
        pass
def answer(client):
    while True:
        mark = client.recv(4, socket.MSG_WAITALL)
        if len(mark) < 4:
            return
        call = client.recv(struct.unpack(">I", mark)[0] & 0x7FFFFFFF, socket.MSG_WAITALL)
        xid, procedure = call[:4], struct.unpack(">I", call[20:24])[0]
        body = struct.pack(">I", ports.get(struct.unpack(">I", call[-16:-12])[0], 0)) if procedure == 3 else b""
        reply = xid + struct.pack(">5I", 1, 0, 0, 0, 0) + body
        client.sendall(struct.pack(">I", 0x80000000 | len(reply)) + reply)
listener = socket.create_server(("127.0.11.3", 111))
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
PYTHON
urls=([0]=nfs://127.0.11.1/x/disk.img [1]=nfs://127.0.11.3$data/x/disk.img [2]=nfs://127.0.11.2/x/disk.img)
answers() {
    for _ in $(seq 80); do timeout 5 qemu-img info -f raw "$1" >/dev/null 2>&1 && return; sleep 0.5; done
    echo "peers.sh: $1 does not answer" >&2; tail -n 5 "$work"/*.log >&2; exit 1
}
python3 "$work/portmap.py" & pids+=($!)
answers "${urls[0]}"
answers "${urls[2]}"
# rpcbind would take port 111 of every address, so it comes after those who want it on one.
rpcinfo -p 127.0.0.1 >/dev/null 2>&1 || { rpcbind -f -h 127.0.11.4 & pids+=($!); sleep 1; }
ganesha.nfsd -F -L "$work/ganesha.log" -f "$work/ganesha.conf" -p "$work/ganesha.pid" & pids+=($!); ganesha=$!

answers "${urls[1]}"
processes=("$ours" "$ganesha" "$nfsserve")
names=(ours ganesha nfsserve)
# Name, count, depth, size, step, options.
workloads=(
    "1 MiB read d1|1600 1 1048576 1048576|"   "1 MiB read d8|1600 8 1048576 1048576|"
    "1 MiB write d1|800 1 1048576 1048576|-w" "1 MiB write d8|800 8 1048576 1048576|-w"
    "4 KiB read d1|16000 1 4096 1052672|"     "4 KiB read d32|40000 32 4096 1052672|"
    "4 KiB write d1|16000 1 4096 1052672|-w"  "4 KiB write d32|40000 32 4096 1052672|-w"
    "64 KiB read d1|6000 1 65536 1114112|"    "64 KiB read d32|8000 32 65536 1114112|"
    "64 KiB write d32|6000 32 65536 1114112|-w"
)
ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }
: >"$work/results"
for round in $(seq "$rounds"); do
    for workload in "${workloads[@]}"; do
        IFS='|' read -r name numbers option <<<"$workload"
        read -r count depth size step <<<"$numbers"
        for engine in 0 1 2; do
            # nfsserve slows down with every request of the last minute: give it few, so that the run ends.
            asked=$count; [ "$engine" = 2 ] && asked=$((count / 4))
            before=$(ticks "${processes[$engine]}") start=$(date +%s%N)
            # shellcheck disable=SC2086
            timeout -s KILL 60 qemu-img bench -f raw -t none -c "$asked" -d "$depth" -s "$size" -S "$step" $option \
                "${urls[$engine]}" >/dev/null || { echo "peers.sh: ${names[$engine]} failed at $name" >&2; exit 1; }
            end=$(date +%s%N) after=$(ticks "${processes[$engine]}")
            echo "$name|${names[$engine]}|$asked|$size|$((after - before))|$((end - start))" >>"$work/results"
        done
    done
    echo "round $round of $rounds done" >&2
done
awk -F'|' -v clock="$(getconf CLK_TCK)" '
    { key = $1 SUBSEP $2; cpu = $5 / clock * 1e6 / $3; rate = $3 / ($6 / 1e9); mib = rate * $4 / 1048576
      if (!($1 in seen)) { order[++rows] = $1; seen[$1] = 1 }
      if (!(key in best) || cpu < best[key]) best[key] = cpu
      if (rate > fast[key]) { fast[key] = rate; speed[key] = $4 < 65536 ? sprintf("%.1f kIOPS", rate / 1000) : sprintf("%.0f MiB/s", mib) } }
    END {
      print "| workload | ours us/op | ganesha us/op | nfsserve us/op | CPU ganesha : ours | ours | ganesha | nfsserve | rate ours : ganesha |"
      print "|---|---|---|---|---|---|---|---|---|"
      for (row = 1; row <= rows; row++) {
        name = order[row]; o = name SUBSEP "ours"; g = name SUBSEP "ganesha"; n = name SUBSEP "nfsserve"
        printf "| %s | %.1f | %.1f | %.1f | %.1f | %s | %s | %s | %.2f |\n", name, best[o], best[g], best[n],
          best[o] ? best[g] / best[o] : 0, speed[o], speed[g], speed[n], fast[g] ? fast[o] / fast[g] : 0 } }' "$work/results"
