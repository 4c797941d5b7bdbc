//! What `smbd` sees of the machine: the machine, but with users of ours in place of the machine's.
//!
//! Programs run in a mount namespace of their own in which `/etc/passwd`, `/etc/group` and `/etc/nsswitch.conf` are files
//! of the server's folder. The server itself is the first of a process namespace too: whatever it starts ends with it, and
//! it ends with the thread that started it, however that comes about.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Programs;
use crate::folder::Folder;
use crate::programs::command;

/// Makes commands that see the users of ours.
#[derive(Debug, Clone)]
pub(crate) struct Namespace {
    programs: Programs,
    files: [PathBuf; 3],
}

impl Namespace {
    pub(crate) fn new(programs: &Programs, folder: &Folder) -> Self {
        Self {
            programs: programs.clone(),
            files: [folder.users(), folder.groups(), folder.name_services()],
        }
    }

    /// A command that runs and ends.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = command(&self.programs.unshare);
        command.args(["--mount", "--propagation", "slave", "--"]);
        self.finish(command, program)
    }

    /// A command that ends, with all that it started, when the thread that spawns it does.
    pub(crate) fn kept(&self, program: &Path) -> Command {
        let mut command = command(&self.programs.setpriv);
        // Samba ends its whole process group, which must not be that of this process.
        command.process_group(0);
        command.args(["--pdeathsig", "KILL", "--"]);
        command.arg(&self.programs.unshare);
        command.args(["--pid", "--fork", "--kill-child=KILL"]);
        command.args(["--mount", "--propagation", "slave", "--"]);
        self.finish(command, program)
    }

    /// A command beside the server whose process is `server`.
    pub(crate) fn beside(&self, server: u32, program: &Path) -> Command {
        let mut command = command(&self.programs.nsenter);
        command.args(["--pid", "--mount", "--target", &server.to_string(), "--"]);
        command.arg(program);
        command
    }

    fn finish(&self, mut command: Command, program: &Path) -> Command {
        command.args(["/bin/sh", "-c", SCRIPT, "sh"]);
        command.args(&self.files);
        command.arg(program);
        command
    }
}

/// Programs ask a running nscd before they look into a file, and it knows the machine's users.
const SCRIPT: &str = r#"set -e
mount --bind "$1" /etc/passwd
mount --bind "$2" /etc/group
if [ -e /etc/nsswitch.conf ]; then mount --bind "$3" /etc/nsswitch.conf; fi
if [ -e /run/nscd/socket ]; then mount --bind /dev/null /run/nscd/socket; fi
shift 3
exec "$@""#;
