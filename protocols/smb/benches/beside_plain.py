#!/usr/bin/env python3
"""Runs smbtorture's families against a session's share and against plain smbd on tmpfs, in one run.

`protocols/smb/benches/beside_plain.py PATH-OF-HOLDFAST [FAMILY...]`, as root, with Debian's samba, samba-testsuite and
samba-vfs-modules. There are three servers: a session's share; smbd on tmpfs with the options that the session's smbd has;
smbd on tmpfs as it is. Prints for each family how many tests pass, fail and are skipped in each, and the names of those that
the options lose (they pass in plain smbd alone) and that the folder of the session loses (they pass on tmpfs with the same
options). A family is ended after LIMIT seconds (default 60); its test under way then counts as neither.
"""
import collections
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time

LIMIT = int(os.environ.get("LIMIT", "60"))
FAMILIES = """connect tcon session credits compound compound_find read rw create dir rename mkdir maxfid sharemode lock
    delete-on-close-perms getinfo setinfo openattr notify dosmode ioctl oplock lease durable-open durable-v2-open streams
    acls timestamps fileid secleak zero-data-ioctl twrp replay change_notify_disabled check-sharemode""".split()

PLAIN = """[global]
{options}server role = standalone server
disable netbios = yes
load printers = no
printing = bsd
printcap name = /dev/null
disable spoolss = yes
smb ports = {port}
interfaces = lo
bind interfaces only = yes
private dir = {state}/private
lock directory = {state}/lock
state directory = {state}/state
cache directory = {state}/cache
pid directory = {state}/pid
ncalrpc dir = {state}/rpc
log file = {state}/log
passdb backend = tdbsam:{state}/private/passdb.tdb
[lab]
{share_options}path = {share}
read only = no
"""

# Places, and who may come.
OWN = ("dir", "directory", "log file", "smb ports", "interfaces", "passdb", "path", "valid users", "hosts")

INSIDE = """set -e
mount --bind "$1" /etc/passwd
mount --bind "$2" /etc/group
shift 2
exec "$@"
"""


def main():
    holdfast, families = os.path.abspath(sys.argv[1]), sys.argv[2:] or FAMILIES
    work = tempfile.mkdtemp(prefix="smb-beside-")
    os.chmod(work, 0o711)  # The plain server's user is not root.
    processes = []
    try:
        ours, options = start_ours(holdfast, work, processes)
        alike = start_plain(f"{work}/alike", processes, options)
        plain = start_plain(f"{work}/plain", processes, ("", ""))
        print("| family | session | its options on tmpfs | plain smbd | lost by the options | lost by the folder |")
        print("|---|---|---|---|---|---|", flush=True)
        for family in families:
            ran = [torture(server, family, work) for server in (ours, alike, plain)]
            passed = [set(outcomes["success"]) for outcomes in ran]
            lost = [passed[2] - passed[1], passed[1] - passed[0]]
            row = [family, *map(counts, ran), *(", ".join(sorted(names)) for names in lost)]
            print("| " + " | ".join(row) + " |", flush=True)
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()
        for name in ("alike", "plain"):
            subprocess.run(["umount", f"{work}/{name}/share"], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["rm", "-rf", "--one-file-system", work], check=False)


def start_ours(holdfast, work, processes):
    repository, configuration = f"{work}/r", f"{work}/holdfast.toml"
    write(configuration, '[smb]\nlisten = ["127.0.0.1"]\n[iscsi]\nlisten = []\n')
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([holdfast, "init", repository], check=True, **quiet)
    serve = [holdfast, "serve", "--any-ports", "--config", configuration, "--repository", repository]
    processes.append(subprocess.Popen(serve, **quiet))
    command = [holdfast, "--json", "--state", f"{repository}/daemon"]
    while subprocess.run(command + ["stats"], check=False, **quiet).returncode != 0:
        time.sleep(0.1)
    with open(f"{work}/disk.raw", "wb") as disk:
        disk.truncate(64 << 20)
    subprocess.run(command + ["backup", "image", "w", f"{work}/disk.raw"], check=True, **quiet)
    start = ["recover", "start", "w@1", "--name", "lab", "--protocol", "smb"]
    session = json.loads(subprocess.run(command + start, check=True, capture_output=True).stdout)
    share = session["share"]
    port = re.search(r":(\d+)/", share["url"]).group(1)
    with open(f"{repository}/daemon/smb/smb.conf", encoding="utf-8") as file:
        sections = re.split(r"^\[\w+\]\n", file.read(), flags=re.M)[1:]
    options = []
    for section in sections:
        lines = [line.strip() for line in section.splitlines()]
        kept = [line for line in lines if not any(own in line.split(" = ")[0] for own in OWN)]
        options.append("".join(f"{line}\n" for line in kept))
    return (port, f"{share['user']}%{share['password']}"), options


def start_plain(work, processes, options):
    state, share = f"{work}/state", f"{work}/share"
    os.makedirs(state)
    for folder in ("private", "lock", "state", "cache", "pid", "rpc"):
        os.makedirs(f"{state}/{folder}", mode=0o755)
    os.mkdir(share)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0777", "tmpfs", share], check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configuration = f"{state}/smb.conf"
    write(configuration, PLAIN.format(port=port, state=state, share=share, options=options[0], share_options=options[1]))
    write(f"{state}/passwd", "root:x:0:0::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\nplain:x:1610612736:65534::/:/bin/false\n")
    write(f"{state}/group", "root:x:0:\nnogroup:x:65534:\n")
    inside = ["unshare", "--mount", "sh", "-c", INSIDE, "sh", f"{state}/passwd", f"{state}/group"]
    add = inside + ["smbpasswd", "-c", configuration, "-s", "-a", "plain"]
    subprocess.run(add, input=b"plain-1\nplain-1\n", check=True, stdout=subprocess.DEVNULL)
    smbd = inside + ["smbd", "-F", "-s", configuration]
    processes.append(subprocess.Popen(smbd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return str(port), "plain%plain-1"
        except ConnectionRefusedError:
            time.sleep(0.05)


def torture(server, family, work):
    port, user = server
    own = f"{work}/client"
    os.makedirs(own, exist_ok=True)
    names = ("private dir", "lock directory", "state directory", "cache directory")
    write(f"{own}/smb.conf", "[global]\n" + "".join(f"{name} = {own}\n" for name in names))
    command = ["timeout", "-s", "KILL", str(LIMIT), "smbtorture", "-s", f"{own}/smb.conf", "-p", port]
    command += ["-U", user, "--option=torture:progress=no", "//127.0.0.1/lab", f"smb2.{family}"]
    run = subprocess.run(command, check=False, capture_output=True, cwd=own)
    outcomes = collections.defaultdict(list)
    for line in run.stdout.decode(errors="replace").splitlines():
        found = re.match(r"(success|failure|error|skip): (\S+)", line)
        if found:
            outcomes[found.group(1)].append(found.group(2))
    outcomes["ended"] = run.returncode == -9 or run.returncode == 137
    return outcomes


def counts(outcomes):
    failed = len(outcomes["failure"]) + len(outcomes["error"])
    ended = " (ended)" if outcomes["ended"] else ""
    return f"{len(outcomes['success'])}, {failed}, {len(outcomes['skip'])}{ended}"


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    main()
