//! What a process gives up before it becomes QEMU.
//!
//! A guest's filesystem that takes over the kernel in the machine has QEMU before it. What it finds behind that is this: no
//! network, no process and no program, the files of the system for reading, one folder of its own, and limits.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{IoSliceMut, stderr, stdin};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, Scope,
};
use rustix::fs::{FileType, fstat};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::found::KVM;
use crate::worker::{WorkerError, enter_and_start_again, limits, system};

/// What is left to a machine.
#[derive(Debug, Clone)]
pub struct MachineLimits {
    /// Addresses that it may take, its memory among them.
    pub addresses_bytes: u64,
    /// The folder in which it may write.
    pub folder: PathBuf,
}

/// Gives up what a machine does not need, and becomes the program of `command`. Takes two steps, as the process that reads
/// does; `inner` is what the second was given by the first. Sockets and files come over standard input, and have the numbers
/// from 3.
///
/// # Errors
/// If it cannot be confined, was started by somebody else, or the program cannot be started.
pub fn become_machine(
    inner: Option<u32>,
    left: &MachineLimits,
    command: &[OsString],
) -> Result<ExitCode, WorkerError> {
    limits::die_with_parent()?;
    match inner {
        None => enter_and_start_again(),
        Some(_) => match become_confined(left, command)? {},
    }
}

fn become_confined(left: &MachineLimits, command: &[OsString]) -> Result<Infallible, WorkerError> {
    let given = take_descriptors()?;
    limits::no_new_privileges()?;
    // Without Landlock the rest holds, as the machine's own list of system calls does.
    landlock(left, &given).ok();
    // They stay open for the program that this process becomes.
    given.into_iter().for_each(std::mem::forget);
    let limit = |resource, most| {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, limit).map_err(|error| system("limit what this process takes", error))
    };
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, OVERLAY_BYTES)?;
    limit(Resource::Nofile, FILES)?;
    limit(Resource::As, left.addresses_bytes)?;
    // What the machine's console says is for whoever started it.
    rustix::stdio::dup2_stdout(stderr()).map_err(|error| system("give it a console", error))?;
    let (program, arguments) = command
        .split_first()
        .ok_or(WorkerError::Alone("no program is named"))?;
    let error = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("TMPDIR", &left.folder)
        .current_dir("/")
        .exec();
    Err(system("start the machine", error))
}

/// Takes the sockets and files that the parent sends, which have the numbers that it expects.
fn take_descriptors() -> Result<Vec<OwnedFd>, WorkerError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut mark = [0];
    let mut room = [IoSliceMut::new(&mut mark)];
    let taken = recvmsg(
        stdin().as_fd(),
        &mut room,
        &mut ancillary,
        RecvFlags::empty(),
    )
    .map_err(|_| WorkerError::Alone("standard input is no socket of its parent"))?;
    if taken.bytes != 1 {
        return Err(WorkerError::Alone("its parent is gone"));
    }
    let mut given = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            given.extend(descriptors);
        }
    }
    let numbers = given.iter().map(AsRawFd::as_raw_fd);
    match numbers
        .zip(FIRST_DESCRIPTOR..)
        .all(|(is, should)| is == should)
    {
        true => Ok(given),
        false => Err(WorkerError::Alone("it has more open than its parent knows")),
    }
}

/// What is installed may be read and run, what it was given be read, its own folder be written, and nothing else.
fn landlock(left: &MachineLimits, given: &[OwnedFd]) -> Result<(), RulesetError> {
    let read = AccessFs::from_read(LANDLOCK);
    let all = AccessFs::from_all(LANDLOCK);
    let mut rules = Ruleset::default()
        .handle_access(all)?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?;
    let readable = READABLE.iter().map(|path| (PathBuf::from(path), read));
    let writable = [
        (left.folder.clone(), all),
        (KVM.into(), all),
        ("/dev/null".into(), all),
    ];
    for (path, access) in readable.chain(writable) {
        // What is not there is not needed.
        if let Ok(opened) = PathFd::new(&path) {
            let access = match path.is_dir() {
                true => access,
                false => access & AccessFs::from_file(LANDLOCK),
            };
            rules = rules.add_rule(PathBeneath::new(opened, access))?;
        }
    }
    for descriptor in given {
        let is_file = fstat(descriptor)
            .is_ok_and(|known| FileType::from_raw_mode(known.st_mode) == FileType::RegularFile);
        if is_file {
            rules = rules.add_rule(PathBeneath::new(descriptor, AccessFs::ReadFile))?;
        }
    }
    rules.restrict_self().map(drop)
}

/// The number of the first socket that the machine is given.
pub(super) const FIRST_DESCRIPTOR: i32 = 3;

const LANDLOCK: ABI = ABI::V7;

const READABLE: [&str; 8] = [
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/boot",
    "/etc/ld.so.cache",
    "/sys/devices/system",
    "/dev/urandom",
];

/// Most that a kernel may write as it replays journals.
const OVERLAY_BYTES: u64 = 4 << 30;
const FILES: u64 = 256;
