//! What a process gives up before it becomes QEMU.
//!
//! A guest's filesystem that takes over the kernel in the machine has QEMU before it. What it finds behind that is this: no
//! network, no process and no program, the files of the system for reading, one folder of its own, and limits.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{IoSliceMut, stderr, stdin};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, Scope,
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::found::KVM;
use super::prepared::START;
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
/// does; `inner` is what the second was given by the first. Its sockets come over standard input, and get the numbers from 3.
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
    take_sockets()?;
    limits::no_new_privileges()?;
    // Without Landlock the rest holds, as the machine's own list of system calls does.
    landlock(left).ok();
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

/// Takes the sockets that the parent sends, and leaves them open under numbers that it knows.
fn take_sockets() -> Result<(), WorkerError> {
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
    let mut next = FIRST_SOCKET;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(sockets) = message {
            for socket in sockets {
                if socket.as_raw_fd() != next {
                    return Err(WorkerError::Alone("it has more open than its parent knows"));
                }
                // It stays open for the program that this process becomes.
                std::mem::forget(socket);
                next += 1;
            }
        }
    }
    Ok(())
}

/// What is installed may be read and run, its own folder be written, and nothing else.
fn landlock(left: &MachineLimits) -> Result<(), RulesetError> {
    let read = AccessFs::from_read(LANDLOCK);
    let all = AccessFs::from_all(LANDLOCK);
    let mut rules = Ruleset::default()
        .handle_access(all)?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?;
    let readable = READABLE.iter().map(|path| (PathBuf::from(path), read));
    let start = [(left.folder.with_file_name(START), read)];
    let writable = [
        (left.folder.clone(), all),
        (KVM.into(), all),
        ("/dev/null".into(), all),
    ];
    for (path, access) in readable.chain(start).chain(writable) {
        // What is not there is not needed.
        if let Ok(opened) = PathFd::new(&path) {
            let access = match path.is_dir() {
                true => access,
                false => access & AccessFs::from_file(LANDLOCK),
            };
            rules = rules.add_rule(PathBeneath::new(opened, access))?;
        }
    }
    rules.restrict_self().map(drop)
}

/// The number of the first socket that the machine is given.
pub(super) const FIRST_SOCKET: i32 = 3;

const LANDLOCK: ABI = ABI::V7;

const READABLE: [&str; 9] = [
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/boot",
    "/etc/ld.so.cache",
    "/proc",
    "/sys/devices/system",
    "/dev/urandom",
];

/// Most that a kernel may write as it replays journals.
const OVERLAY_BYTES: u64 = 4 << 30;
const FILES: u64 = 256;
