#!/bin/bash
# Compares this server with nbdkit and qemu-nbd over the same disk size and workloads: `protocols/nbd/benches/peers.sh`.
#
# Prints the server's CPU time per operation (user + system, from /proc/PID/stat, least of the rounds), the wall rate
# (best of the rounds), and both as a ratio to ours. Needs nbdkit, qemu-nbd and qemu-img (Debian: nbdkit, qemu-utils).
# ROUNDS=1 makes it quick; SERVER=PATH takes a server that is built already.
set -euo pipefail
cd "$(dirname "$0")/../../.."
rounds=${ROUNDS:-3}
size_mib=256
for program in nbdkit qemu-nbd qemu-img; do
    command -v "$program" >/dev/null || { echo "peers.sh needs $program" >&2; exit 1; }
done
if [ -z "${SERVER:-}" ]; then
    cargo build --quiet --release -p nbd --example serve_memory
    SERVER=${CARGO_TARGET_DIR:-target}/release/examples/serve_memory
fi
work=$(mktemp -d)
image=$(mktemp /dev/shm/holdfast-nbd-XXXXXX)
pids=()
cleanup() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    rm -rf "$work" "$image"
}
trap cleanup EXIT
truncate -s ${size_mib}M "$image"

# A free port for each server that needs one.
free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
declare -A uri pid
port=$(free_port)
"$SERVER" $size_mib "127.0.0.1:$port" "$work/ours.sock" &
pids+=($!); pid[ours-tcp]=$!; pid[ours-unix]=$!
uri[ours-tcp]=nbd://127.0.0.1:$port/memory
uri[ours-unix]="nbd+unix:///memory?socket=$work/ours.sock"
port=$(free_port)
nbdkit -f -i 127.0.0.1 -p "$port" memory ${size_mib}M &
pids+=($!); pid[nbdkit-tcp]=$!
uri[nbdkit-tcp]=nbd://127.0.0.1:$port
nbdkit -f -U "$work/nbdkit.sock" memory ${size_mib}M &
pids+=($!); pid[nbdkit-unix]=$!
uri[nbdkit-unix]="nbd+unix:///?socket=$work/nbdkit.sock"
qemu-nbd -f raw -t -e 16 -k "$work/qemu.sock" --cache=writeback --aio=threads "$image" &
pids+=($!); pid[qemu-unix]=$!
uri[qemu-unix]="nbd+unix:///?socket=$work/qemu.sock"
servers=(ours-tcp nbdkit-tcp ours-unix nbdkit-unix qemu-unix)
for server in "${servers[@]}"; do
    for _ in $(seq 100); do qemu-img info "${uri[$server]}" >/dev/null 2>&1 && break; sleep 0.05; done
    # Every byte is written once, so that no server answers from holes.
    qemu-img bench -w -q --pattern=7 -f raw -t none -c $size_mib -d 4 -s 1M "${uri[$server]}"
done

# name, operation, bytes, depth, step, count. A step of 1 MiB and 4 KiB stands for random offsets.
workloads=(
    "1M-read-d1 r 1048576 1 1048576 400"
    "1M-read-d8 r 1048576 8 1048576 600"
    "1M-write-d1 w 1048576 1 1048576 400"
    "1M-write-d8 w 1048576 8 1048576 400"
    "64K-read-d32 r 65536 32 1114112 6000"
    "64K-write-d32 w 65536 32 1114112 6000"
    "4K-read-d1 r 4096 1 1052672 12000"
    "4K-read-d32 r 4096 32 1052672 30000"
    "4K-write-d1 w 4096 1 1052672 12000"
    "4K-write-d32 w 4096 32 1052672 30000"
)
ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }
for round in $(seq "$rounds"); do
    for workload in "${workloads[@]}"; do
        read -r name operation bytes depth step count <<<"$workload"
        flag=(); [ "$operation" = w ] && flag=(-w)
        for server in "${servers[@]}"; do
            before=$(ticks "${pid[$server]}")
            seconds=$(qemu-img bench "${flag[@]}" -f raw -t none -c "$count" -d "$depth" -s "$bytes" -S "$step" \
                "${uri[$server]}" | awk '/Run completed/ { print $4 }')
            after=$(ticks "${pid[$server]}")
            echo "$name $server $bytes $count $((after - before)) $seconds" >>"$work/results"
        done
    done
    echo "round $round of $rounds is done" >&2
done

awk -v hertz="$(getconf CLK_TCK)" -v order="${workloads[*]}" '
{
    key = $1 " " $2
    if (!($1 in seen)) { seen[$1] = 1; names[++count] = $1 }
    cpu = $5 / hertz / $4 * 1e6; rate = $4 / $6
    if (!(key in best) || cpu < best[key]) best[key] = cpu
    if (!(key in top) || rate > top[key]) top[key] = rate
    bytes[$1] = $3
}
function show(name, server, ours,    key, base, unit, rate, text) {
    key = name " " server; base = name " " ours
    rate = bytes[name] >= 1048576 ? sprintf("%.0f MB/s", top[key] * bytes[name] / 1e6) \
                                  : sprintf("%.1f kIOPS", top[key] / 1e3)
    text = sprintf("%.1f us, %s", best[key], rate)
    if (server != ours)
        text = text sprintf(" (%.2fx, %.2fx)", best[base] > 0 ? best[key] / best[base] : 0, top[base] / top[key])
    return text
}
END {
    print "Server CPU per operation and wall rate; (how much more CPU the peer takes, how much faster we are)."
    print ""
    print "| workload | ours, TCP | nbdkit memory, TCP | ours, unix | nbdkit memory, unix | qemu-nbd, unix |"
    print "|---|---|---|---|---|---|"
    for (i = 1; i <= count; i++) {
        n = names[i]
        printf "| %s | %s | %s | %s | %s | %s |\n", n, show(n, "ours-tcp", "ours-tcp"), \
            show(n, "nbdkit-tcp", "ours-tcp"), show(n, "ours-unix", "ours-unix"), \
            show(n, "nbdkit-unix", "ours-unix"), show(n, "qemu-unix", "ours-unix")
    }
}' "$work/results"
