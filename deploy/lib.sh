# What deploy/quickstart and tests/run share: Debian packages, Rust, steps with their times. Read it with `.`
# shellcheck shell=bash

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
rust_needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$top/Cargo.toml")

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# Runs a command, and prints its name and how long it took.
step() {
    local name=$1 started=$EPOCHREALTIME status=0
    shift
    say "==> $name"
    "$@" || status=$?
    awk -v a="$started" -v b="$EPOCHREALTIME" -v n="$name" -v s="$status" \
        'BEGIN { printf "==> %s: %s after %.1f s\n", n, (s == 0 ? "done" : "FAILED"), b - a }' >&2
    return "$status"
}

# Runs a command as root.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this takes root, and there is no sudo: $*"
    fi
}

# Installs those packages of the groups in deploy/packages that are missing.
install_packages() {
    local wanted missing=() package
    wanted=$(awk -v groups=" $* " '!/^#/ && NF == 2 && index(groups, " " $1 " ") { print $2 }' "$top/deploy/packages")
    for package in $wanted; do
        installed "$package" || missing+=("$package")
    done
    if [ ${#missing[@]} = 0 ]; then
        say "every Debian package is installed"
        return
    fi
    command -v apt-get >/dev/null || die "this is no Debian; it takes these packages: ${missing[*]}"
    say "installing: ${missing[*]}"
    as_root apt-get -qq update || say "apt-get update failed; going on with the package lists that are here"
    local qemu=() others=()
    for package in "${missing[@]}"; do
        case $package in qemu-*) qemu+=("$package") ;; *) others+=("$package") ;; esac
    done
    if [ ${#qemu[@]} != 0 ]; then
        mapfile -t qemu < <(qemu_of_one_version)
        apt_install "${qemu[@]}"
    fi
    if [ ${#others[@]} != 0 ]; then
        apt_install "${others[@]}"
    fi
}

apt_install() {
    without_services as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install --yes --no-install-recommends "$@" >/dev/null || die "apt-get could not install: $*"
}

installed() {
    [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Prints apt-get's words for QEMU. Its packages must be of one version, for its block modules load into no other: if
# some are here from backports, the rest is taken from there too; if that cannot be, all go to Debian 12's own.
qemu_of_one_version() {
    local packages=(qemu-block-extra qemu-system-x86 qemu-utils) package have= own
    for package in "${packages[@]}"; do
        installed "$package" && have=$(dpkg-query --show --showformat='${Version}' "$package")
    done
    own=$(apt-cache policy qemu-system-x86 | sed -n 's/^ *Candidate: //p')
    if [ -z "$have" ] || [ "$have" = "$own" ]; then
        printf '%s\n' "${packages[@]}"
    elif available qemu-system-x86 "$have" &&
        apt-get -qq --simulate --target-release=bookworm-backports install "${packages[@]}" >/dev/null 2>&1; then
        printf '%s\n' --target-release=bookworm-backports "${packages[@]}"
    else
        printf '%s\n' --allow-downgrades "${packages[@]/%/=$own}"
    fi
}

available() {
    apt-cache madison "$1" | awk -F' *[|] *' -v version="$2" '$2 == version { found = 1 } END { exit !found }'
}

# Installs without starting what is installed: a portmapper that listens would be in the way of our own.
without_services() {
    local policy=/usr/sbin/policy-rc.d status=0
    if [ -e "$policy" ]; then
        "$@"
        return
    fi
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
    "$@" || status=$?
    as_root rm -f "$policy"
    return "$status"
}

# Finds cargo, or fetches it with rustup: Debian 12's own is too old.
need_rust() {
    export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    if ! command -v cargo >/dev/null; then
        say "there is no cargo, and Debian 12's is older than Rust $rust_needed: fetching it with rustup"
        curl --proto '=https' --tlsv1.2 --silent --show-error --fail https://sh.rustup.rs |
            sh -s -- -y --no-modify-path --profile minimal --component clippy --component rustfmt ||
            die "rustup could not be fetched: install Rust $rust_needed or newer from https://rustup.rs, then run this again"
    fi
    local have
    have=$(rustc --version | cut -d' ' -f2)
    [ "$(printf '%s\n' "$rust_needed" "$have" | sort -V | head -n 1)" = "$rust_needed" ] ||
        die "Rust $rust_needed or newer is needed, and $have is here: run 'rustup update'"
}

# Makes the guest of a kind in target/guest/KIND, unless it is there.
make_guest() {
    local kind=$1 folder=$top/target/guest/$1
    mkdir -p "$folder"
    if [ "$kind" = test ]; then
        # As the one who calls: root may have no cargo.
        "$top/deploy/guest" fsx "$top/target/guest/fsx"
    fi
    as_root env "PATH=$PATH" "HOLDFAST_FSX_ROOT=$top/target/guest/fsx" \
        "$top/deploy/guest" make --kind "$kind" "$folder"
}
