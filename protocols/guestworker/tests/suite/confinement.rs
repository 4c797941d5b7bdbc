//! Each layer of a worker's confinement, tried from inside.

use std::fs;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use guestworker::{Layer, Worker};

use crate::support::{act, faulty, files, options};

/// The second step's number: the one child of the first.
fn inner(worker: &Worker) -> u32 {
    let outer = worker.process().unwrap();
    let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap();
    children.trim().parse().unwrap()
}

fn told(act: &str, expected: &str) {
    let worker = faulty();
    let told = match self::act(&*files(&worker, 0), act) {
        Ok(told) => told,
        Err(error) => error.to_string(),
    };
    assert!(told.contains(expected), "{act}: {told}");
    assert!(
        self::act(&*files(&worker, 1), "fine").is_ok(),
        "it is there again"
    );
}

#[test]
fn no_file_is_opened() {
    told("open", "PermissionDenied");
}

#[test]
fn no_socket_is_made() {
    told("socket", "a system call that it may not make");
}

#[test]
fn no_thread_or_process_is_started() {
    told("fork", "a system call that it may not make");
    told("run", "a system call that it may not make");
}

#[test]
fn nobody_is_sent_a_signal() {
    told("signal", "a system call that it may not make");
}

#[test]
fn no_memory_is_executed() {
    told("execute", "a system call that it may not make");
}

#[test]
fn memory_is_bounded() {
    told("eat", "it gave up");
}

/// Only root sees what a process does not let others see.
fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    assert!(is_root || std::env::var_os("CI").is_none(), "CI is root");
    if !is_root {
        println!("left out: only root may look into a worker");
    }
    is_root
}

#[test]
fn nothing_of_the_parent_is_there() {
    if !is_root() {
        return;
    }
    let leaked = fs::File::open("/dev/null").unwrap();
    // Goes over to every program that this process starts.
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let worker = faulty();
    let inner = inner(&worker);
    let read = |name: &str| fs::read_to_string(format!("/proc/{inner}/{name}")).unwrap();
    assert_eq!(read("environ"), "");
    let status = read("status");
    for (field, value) in [("NoNewPrivs", "1"), ("Seccomp", "2")] {
        let line = status
            .lines()
            .find(|line| line.starts_with(&format!("{field}:")));
        assert_eq!(
            line.unwrap().split_whitespace().nth(1),
            Some(value),
            "{field}"
        );
    }
    let limits = read("limits");
    for (limit, value) in [
        ("Max core file size", "0"),
        ("Max file size", "0"),
        ("Max open files", "12"),
        ("Max data size", "268435456"),
        ("Max address space", "1342177280"),
    ] {
        let line = limits.lines().find(|line| line.starts_with(limit)).unwrap();
        let found = line[limit.len()..].split_whitespace().next();
        assert_eq!(found, Some(value), "{limit}");
    }
    let mut open: Vec<_> = fs::read_dir(format!("/proc/{inner}/fd"))
        .unwrap()
        .map(|entry| fs::read_link(entry.unwrap().path()).unwrap())
        .map(|target| target.to_string_lossy().into_owned())
        .filter(|target| !target.starts_with("socket:") && !target.starts_with("pipe:"))
        .collect();
    open.sort();
    assert_eq!(open, ["/dev/null"], "standard output alone");
    let count = fs::read_dir(format!("/proc/{inner}/fd")).unwrap().count();
    assert_eq!(count, 3 + 1 + 8, "the three, the control, the lanes");
    drop(leaked);
}

#[test]
fn namespaces_are_left_as_far_as_they_can_be() {
    if !is_root() {
        return;
    }
    let worker = faulty();
    let missing: Vec<Layer> = worker.missing().unwrap().iter().collect();
    println!("missing here: {}", worker.missing().unwrap());
    let inner = inner(&worker);
    let of =
        |process: &str, name: &str| fs::read_link(format!("/proc/{process}/ns/{name}")).unwrap();
    for (layer, name) in [
        (Layer::Users, "user"),
        (Layer::Network, "net"),
        (Layer::Processes, "pid"),
        (Layer::Communication, "ipc"),
        (Layer::Name, "uts"),
    ] {
        let is_other = of("self", name) != of(&inner.to_string(), name);
        assert_eq!(is_other, !missing.contains(&layer), "{layer}");
    }
    if missing.contains(&Layer::Landlock) {
        println!("left out: this kernel has no Landlock");
    }
}

/// Has a shell in the place of QEMU try what QEMU should not be able to do.
#[test]
fn little_is_left_to_what_becomes_a_machine() {
    let missing = faulty().missing().unwrap();
    let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(other.path().join("secret"), "secret").unwrap();
    let script = format!(
        "echo process $$; ulimit -c; ulimit -v; cat {other}/secret; echo > {other}/new; echo > {own}/new; echo $TMPDIR; echo $HOME",
        own = own.path().display(),
        other = other.path().display()
    );
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let child = Command::new(options("").program)
        .args(["machine", "2147483648"])
        .arg(own.path())
        .args(["/bin/sh", "-c", &script])
        .env("HOME", "/home/somebody")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    ours.write_all(&[1]).unwrap();
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = told.lines().collect();
    let has = |layer| !missing.iter().any(|missing| missing == layer);
    if has(Layer::Processes) {
        assert_eq!(lines[0], "process 1", "{told}");
    }
    assert_eq!(lines[1..3], ["0", "2097152"], "{told}");
    if has(Layer::Landlock) {
        assert!(!lines.contains(&"secret"), "{told}");
        assert!(!other.path().join("new").exists(), "{told}");
        assert_eq!(told.matches("Permission denied").count(), 2, "{told}");
    }
    assert!(own.path().join("new").exists(), "{told}");
    let end = [own.path().to_str().unwrap(), ""];
    assert!(lines.ends_with(&end), "{told}");
}
