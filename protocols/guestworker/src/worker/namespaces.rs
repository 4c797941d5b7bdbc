//! Namespaces: users, network, processes and more that are nobody else's.
//!
//! Mounts are not among them. A namespace of mounts would hold what the parent has mounted, and a folder that the parent
//! serves and somebody unmounts would stay alive in it: the parent would wait for ever. No file can be opened in any case.

use std::env;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitCode};

use rustix::thread::UnshareFlags;

use super::{WorkerError, limits, system};
use crate::wire::{Layer, Layers};

/// Leaves the namespaces, as far as that is permitted, and starts this program again in the new ones. Returns when that
/// has ended.
pub(crate) fn enter_and_start_again() -> Result<ExitCode, WorkerError> {
    limits::no_new_privileges()?;
    // What somebody left open is closed when the program is started again.
    close_fds::set_fds_cloexec(3, &[]);
    let missing = leave();
    let mut arguments = env::args_os().skip(1);
    let mut child = Command::new("/proc/self/exe")
        .arg0("holdfast")
        .args(arguments.by_ref().take(1))
        .arg(format!("--inner={}", missing.bits()))
        .args(arguments)
        .env_clear()
        .spawn()
        .map_err(|source| system("start the second step", source))?;
    let status = child
        .wait()
        .map_err(|source| system("wait for the second step", source))?;
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        // As shells tell it.
        (None, signal) => 128 + signal.unwrap_or(0),
    };
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

/// All at once, as a namespace of users gives the right to make the others. If that is refused, those that can be had.
fn leave() -> Layers {
    let all = NAMESPACES
        .iter()
        .fold(UnshareFlags::empty(), |all, (_, flag)| all | *flag);
    let mut missing = Layers::new();
    if unshare(all) {
        return missing;
    }
    for (layer, flag) in NAMESPACES {
        if !unshare(flag) {
            missing.insert(layer);
        }
    }
    missing
}

#[expect(
    deprecated,
    reason = "deprecated because of UnshareFlags::FILES, which is not among these"
)]
fn unshare(flags: UnshareFlags) -> bool {
    rustix::thread::unshare(flags).is_ok()
}

const NAMESPACES: [(Layer, UnshareFlags); 5] = [
    (Layer::Users, UnshareFlags::NEWUSER),
    (Layer::Network, UnshareFlags::NEWNET),
    (Layer::Processes, UnshareFlags::NEWPID),
    (Layer::Communication, UnshareFlags::NEWIPC),
    (Layer::Name, UnshareFlags::NEWUTS),
];
