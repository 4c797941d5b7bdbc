//! What `smbd` sees of the machine: the machine, but with users of ours in place of the machine's.
//!
//! Programs run in a mount namespace of their own in which `/etc/passwd`, `/etc/group` and `/etc/nsswitch.conf` are files
//! of the server's folder. The server itself is the first of a process namespace too: whatever it starts ends with it, and
//! it ends with the thread that started it, however that comes about.
//!
//! Whatever puts a new file in the place of the machine's (`useradd` does, and with it half of all packages) takes off what
//! is mounted on the old one, in all namespaces. So it is looked at again and again, and mounted anew.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::accounts::run;
use crate::folder::Folder;
use crate::programs::command;
use crate::{Programs, SmbError};

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

    /// Mounts our files again in the namespace of `server` where they were taken off. Gives those that were.
    pub(crate) fn mend(&self, server: u32) -> Result<Vec<&'static str>, SmbError> {
        let mut mended = Vec::new();
        for (name, file) in PLACES.iter().zip(&self.files) {
            let Ok(seen) = fs::metadata(format!("/proc/{server}/root{name}")) else {
                // The machine has no such file, or the server has ended.
                continue;
            };
            let wanted = fs::metadata(file).map_err(crate::error::file("look at", file))?;
            if (seen.dev(), seen.ino()) == (wanted.dev(), wanted.ino()) {
                continue;
            }
            let mut command = self.beside(server, Path::new("/bin/sh"));
            command.args(["-c", "exec mount --bind \"$1\" \"$2\"", "sh"]);
            command.arg(file).arg(name);
            run("mount", command, b"")?;
            mended.push(*name);
        }
        Ok(mended)
    }

    fn finish(&self, mut command: Command, program: &Path) -> Command {
        command.args(["/bin/sh", "-c", SCRIPT, "sh"]);
        command.args(&self.files);
        command.arg(program);
        command
    }
}

/// Where our files are mounted, in their order.
const PLACES: [&str; 3] = ["/etc/passwd", "/etc/group", "/etc/nsswitch.conf"];

/// Programs ask a running nscd before they look into a file, and it knows the machine's users.
const SCRIPT: &str = r#"set -e
mount --bind "$1" /etc/passwd
mount --bind "$2" /etc/group
if [ -e /etc/nsswitch.conf ]; then mount --bind "$3" /etc/nsswitch.conf; fi
if [ -e /run/nscd/socket ]; then mount --bind /dev/null /run/nscd/socket; fi
shift 3
exec "$@""#;
