//! A real Debian guest in QEMU, driven through its serial console as a person would.

mod console;
mod files;
mod programs;
mod qmp;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

pub use console::Output;
pub use files::GuestFiles;
pub use programs::disk_with_daemon;

use self::console::Console;
use self::qmp::Qmp;
use crate::process::Process;
use crate::transcript::last_lines;

/// How long a boot may take on a busy machine; it takes about five seconds on an idle one.
const BOOT_LIMIT: Duration = Duration::from_secs(300);

/// One drive of the guest. The first is the disk it boots from.
#[derive(Clone, Debug)]
pub enum Drive {
    /// QEMU's description of a block device.
    Options(Value),
    /// A URL, as `holdfast recover start` prints it: `nbd://`, `nbd+unix://`, `nfs://`.
    Url(String),
    /// A file of a format that QEMU knows by that name, at a URL.
    Image(&'static str, String),
}

impl Drive {
    /// A raw image file.
    pub fn file(path: &Path) -> Self {
        Self::Options(json!({"driver": "file", "filename": path}))
    }

    /// An NBD export at `host:port`. The guest's requests wait up to `reconnect` for a server that went away.
    pub fn nbd(host: &str, port: u16, export: &str, reconnect: Duration) -> Self {
        let server = json!({"type": "inet", "host": host, "port": port.to_string()});
        Self::nbd_at(&server, export, reconnect)
    }

    /// An NBD export at a unix socket.
    pub fn nbd_unix(path: &Path, export: &str, reconnect: Duration) -> Self {
        Self::nbd_at(&json!({"type": "unix", "path": path}), export, reconnect)
    }

    /// A file of an NFS server, whose portmapper answers on port 111 of `host`. `path` names the file from the
    /// export's root on, and starts with a slash.
    pub fn nfs(host: &str, path: &str) -> Self {
        Self::Options(
            json!({"driver": "nfs", "server": {"type": "inet", "host": host}, "path": path}),
        )
    }

    fn nbd_at(server: &Value, export: &str, reconnect: Duration) -> Self {
        Self::Options(json!({"driver": "nbd", "server": server, "export": export,
                "reconnect-delay": reconnect.as_secs()}))
    }

    fn arguments(&self, number: usize) -> [String; 4] {
        let node = format!("drive{number}");
        let device = format!("virtio-blk-pci,drive={node},romfile=");
        let [option, drive] = match self {
            Self::Options(file) => {
                let raw =
                    json!({"driver": "raw", "node-name": node, "file": file, "discard": "unmap"});
                ["-blockdev".to_owned(), raw.to_string()]
            }
            Self::Url(url) => drive_at(&node, "raw", url),
            Self::Image(format, url) => drive_at(&node, format, url),
        };
        [option, drive, "-device".to_owned(), device]
    }
}

fn drive_at(node: &str, format: &str, url: &str) -> [String; 2] {
    let options = format!("if=none,id={node},format={format},file={url}");
    ["-drive".to_owned(), options]
}

/// How to start a guest.
#[derive(Debug)]
pub struct Machine<'a> {
    files: &'a GuestFiles,
    drives: Vec<Drive>,
    initrd: PathBuf,
    command_line: String,
}

impl<'a> Machine<'a> {
    /// A guest that boots from `disk`.
    pub fn new(files: &'a GuestFiles, disk: Drive) -> Self {
        Self {
            drives: vec![disk],
            ..Self::diskless(files, &files.path("initrd"), "")
        }
    }

    /// A guest without a disk, which finds one by its initrd and by `words` of the kernel's command line.
    pub fn diskless(files: &'a GuestFiles, initrd: &Path, words: &str) -> Self {
        Self {
            files,
            drives: Vec::new(),
            initrd: initrd.to_owned(),
            command_line: format!("{} {words}", files.command_line),
        }
    }

    /// Adds a drive: `/dev/vdb`, `/dev/vdc` and so on.
    #[must_use]
    pub fn drive(mut self, drive: Drive) -> Self {
        self.drives.push(drive);
        self
    }

    /// Starts QEMU. The guest is booting when this returns.
    pub fn start(self) -> Guest {
        let sockets = tempfile::tempdir().expect("a folder for the sockets");
        let listener = qmp::Listener::bind(&sockets.path().join("qmp"));
        let mut command = Command::new("qemu-system-x86_64");
        command.args(&self.files.machine).args(["-serial", "stdio"]);
        command
            .arg("-kernel")
            .arg(self.files.path("vmlinuz"))
            .arg("-initrd")
            .arg(&self.initrd);
        command.arg("-append").arg(&self.command_line);
        command
            .arg("-qmp")
            .arg(format!("unix:{}", listener.path().display()));
        for (number, drive) in self.drives.iter().enumerate() {
            command.args(drive.arguments(number));
        }
        let started = Instant::now();
        let process = Process::start(&mut command);
        let qmp = listener.accept(&process);
        let console = Console::new(process);
        Guest {
            console,
            qmp,
            started,
            _sockets: sockets,
        }
    }
}

/// A running guest. QEMU is killed when this is dropped.
#[derive(Debug)]
pub struct Guest {
    console: Console,
    qmp: Qmp,
    started: Instant,
    _sockets: TempDir,
}

impl Guest {
    /// Waits for the login prompt `prompt` and gives the time since QEMU was started.
    pub fn wait_for_login(&mut self, prompt: &str) -> Duration {
        self.console.expect(prompt, BOOT_LIMIT);
        self.started.elapsed()
    }

    /// Logs in as root, once the prompt is there; from then on commands can be run.
    pub fn log_in(&mut self) {
        self.console.log_in();
    }

    /// Runs a shell command in the guest.
    pub fn run(&mut self, command: &str, limit: Duration) -> Output {
        self.console.run(command, limit)
    }

    /// Runs a shell command that must succeed, and gives what it printed.
    ///
    /// # Panics
    /// When its status is not 0.
    pub fn must(&mut self, command: &str, limit: Duration) -> String {
        let output = self.run(command, limit);
        let Output { status, text } = &output;
        assert_eq!(
            *status,
            0,
            "in the guest:\n{}\nprinted:\n{text}",
            last_lines(command, 10)
        );
        output.text
    }

    /// Starts a command without waiting; [`Guest::finish`] waits for it. Nothing else can run meanwhile.
    pub fn begin(&mut self, command: &str) {
        self.console.begin(command);
    }

    /// Waits for text of the command that runs now.
    pub fn wait_for(&mut self, text: &str, limit: Duration) {
        self.console.expect(text, limit);
    }

    /// Waits for the command started by [`Guest::begin`].
    pub fn finish(&mut self, limit: Duration) -> Output {
        self.console.finish(limit)
    }

    /// Runs a command of QEMU's machine protocol and gives its answer.
    pub fn qmp(&mut self, command: &str, arguments: Value) -> Value {
        self.qmp.execute(command, arguments)
    }

    /// Switches the guest off in order, and waits until QEMU has ended.
    pub fn power_off(mut self) {
        self.console.power_off(BOOT_LIMIT);
    }

    /// Pulls the plug: QEMU is killed, nothing is written any more.
    pub fn pull_the_plug(mut self) {
        self.console.kill();
    }
}
