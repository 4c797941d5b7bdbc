//! Ends what a server that was killed may have left, known by the configuration on its command line.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Kills every process that was started with the configuration at `path`, and returns when they are gone. Gives for how long
/// the kernel may still be closing what they had open: not at all if there were none.
pub(crate) fn end(path: &Path) -> Duration {
    let deadline = Instant::now() + END_TIMEOUT;
    let mut closing = Duration::ZERO;
    loop {
        let left = find(path);
        for process in &left {
            tracing::warn!(%process, "a process that an earlier smbd left is ended");
            tell(*process, Signal::KILL);
        }
        if left.is_empty() || Instant::now() > deadline {
            return closing;
        }
        closing = END_TIMEOUT;
        thread::sleep(LOOK_AGAIN);
    }
}

fn find(path: &Path) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let is_left = |process: &Pid| {
        fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|line| is_ours(&line, path))
    };
    numbers.filter_map(Pid::from_raw).filter(is_left).collect()
}

/// Asks one process to end, if it is still a server with this configuration.
pub(crate) fn ask_to_end(process: u32, path: &Path) {
    let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let process = i32::try_from(process).ok().and_then(Pid::from_raw);
    if let Some(process) = process.filter(|_| is_ours(&line, path)) {
        tell(process, Signal::TERM);
    }
}

fn tell(process: Pid, signal: Signal) {
    if let Err(error) = kill_process(process, signal) {
        tracing::debug!(%process, %error, "the process has ended meanwhile");
    }
}

/// Whether the arguments, each ended by a zero, are those of a program of Samba's with this configuration.
fn is_ours(line: &[u8], path: &Path) -> bool {
    let mut arguments = line.split(|byte| *byte == 0).map(OsStr::from_bytes);
    let program = arguments
        .next()
        .and_then(|program| Path::new(program).file_name());
    let is_one = program.is_some_and(|name| PROGRAMS.iter().any(|known| name == *known));
    let option = [b"--configfile=", path.as_os_str().as_bytes()].concat();
    is_one && arguments.any(|argument| argument == path || argument.as_bytes() == option)
}

/// A killed process may still have to give memory and files back.
const END_TIMEOUT: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

const PROGRAMS: &[&str] = &[
    "setpriv",
    "unshare",
    "sh",
    "smbd",
    "samba-dcerpcd",
    "rpcd_classic",
    "rpcd_winreg",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_server_with_this_very_configuration_is_meant() {
        let path = Path::new("/state/smb/smb.conf");
        assert!(is_ours(b"smbd\0-F\0-s\0/state/smb/smb.conf\0", path));
        assert!(is_ours(b"/usr/sbin/smbd\0-s\0/state/smb/smb.conf\0", path));
        assert!(is_ours(
            b"/x/samba-dcerpcd\0--configfile=/state/smb/smb.conf\0",
            path
        ));
        assert!(!is_ours(b"smbd\0-s\0/state/smb/smb.conf2\0", path));
        assert!(!is_ours(b"smbd\0-s\0/etc/samba/smb.conf\0", path));
        assert!(!is_ours(b"vi\0/state/smb/smb.conf\0", path));
        assert!(!is_ours(b"", path));
    }
}
