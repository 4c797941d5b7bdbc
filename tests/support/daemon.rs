//! A daemon of one test: its own repository, its own ports, its log read to the end.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::need::profile_folder;
use crate::process::{Process, run};

const LIMIT: Duration = Duration::from_secs(120);

/// A running `holdfast serve`. Dropping it kills it, and fails the test if its log has a WARN or ERROR line that
/// was not announced.
#[derive(Debug)]
pub struct Daemon {
    folder: PathBuf,
    process: Option<Process>,
    address: Ipv4Addr,
    listen: Listen,
    iscsi: Iscsi,
    starts: u32,
    announced: Vec<String>,
    logs: String,
}

/// Ports, by protocol; 0 is any.
#[derive(Clone, Copy, Debug, Default)]
struct Listen {
    api: u16,
    nbd: u16,
    nfs: u16,
    iscsi: u16,
    portmapper: u16,
}

/// How it serves iSCSI.
#[derive(Clone, Debug)]
struct Iscsi {
    portals: usize,
    /// Further lines of its table.
    lines: String,
}

impl Daemon {
    /// Makes a repository in `folder` and serves it on 127.0.0.1 and on any ports, without a portmapper.
    pub fn start(folder: &Path) -> Self {
        Self::create(
            folder,
            Ipv4Addr::LOCALHOST,
            Listen::default(),
            Iscsi::default(),
        )
    }

    /// The same with two portals of iSCSI, and `lines` in the table `[iscsi]` of its configuration.
    pub fn start_with_two_portals(folder: &Path, lines: &str) -> Self {
        let iscsi = Iscsi {
            portals: 2,
            lines: lines.to_owned(),
        };
        Self::create(folder, Ipv4Addr::LOCALHOST, Listen::default(), iscsi)
    }

    /// The same at `address` with NFS on its own ports 2049 and 111, where QEMU looks for it.
    pub fn start_at_well_known_ports(folder: &Path, address: Ipv4Addr) -> Self {
        Self::create(
            folder,
            address,
            Listen {
                nfs: 2049,
                portmapper: 111,
                ..Listen::default()
            },
            Iscsi::default(),
        )
    }

    fn create(folder: &Path, address: Ipv4Addr, listen: Listen, iscsi: Iscsi) -> Self {
        let mut daemon = Self {
            folder: folder.to_path_buf(),
            process: None,
            address,
            listen,
            iscsi,
            starts: 0,
            announced: Vec::new(),
            logs: String::new(),
        };
        run(daemon.command().arg("init").arg(daemon.repository()));
        daemon.serve();
        // A daemon that is started again must be found where it was.
        daemon.listen.api = daemon.port("api");
        daemon.listen.nbd = daemon.port("nbd");
        daemon.listen.nfs = daemon.port("nfs");
        daemon.listen.iscsi = daemon.port("iscsi");
        daemon
    }

    /// Starts the daemon on a repository that is there, and waits until it says that it is ready.
    pub fn serve(&mut self) {
        assert!(self.process.is_none(), "the daemon runs already");
        // A name for each start: the end of the daemon before is told under the name before.
        self.starts += 1;
        let ready = self.folder.join(format!("ready-{}.sock", self.starts));
        let socket = UnixDatagram::bind(&ready).expect("a socket in the test's folder");
        socket
            .set_read_timeout(Some(LIMIT))
            .expect("a limit above zero");
        let config = self.folder.join("holdfast.toml");
        fs::write(&config, self.configuration()).expect("the test's folder is writable");
        let mut command = self.command();
        command
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .env("NOTIFY_SOCKET", &ready);
        let process = Process::start(&mut command);
        wait_until_ready(&socket, &process);
        self.process = Some(process);
    }

    /// A `holdfast` command that finds this daemon.
    pub fn command(&self) -> Command {
        client(&self.state())
    }

    /// Runs a verb of the command line that must succeed, with `--json`, and gives what it prints.
    pub fn cli<const COUNT: usize>(&self, arguments: [&str; COUNT]) -> Value {
        let text = run(self.command().args(arguments).arg("--json"));
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("one JSON document, not \"{text}\": {error}"))
    }

    /// Backs up one image file and gives the restore point's name.
    pub fn back_up(&self, workload: &str, disk: &Path) -> String {
        let file = disk.to_str().expect("a plain path");
        let done = self.cli(["backup", "image", workload, file]);
        done.get("point")
            .and_then(Value::as_str)
            .expect("the point's name")
            .to_owned()
    }

    /// Announces that the log will have WARN or ERROR lines with `text` in them.
    pub fn announce(&mut self, text: &str) {
        self.announced.push(text.to_owned());
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the daemon runs");
        process.kill();
        self.keep_log(&process);
    }

    /// Stops it in order.
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("the daemon runs");
        process.signal(Signal::TERM);
        let status = process.wait(LIMIT);
        self.keep_log(&process);
        assert!(
            status.success(),
            "the daemon ended with {status}:\n{}",
            self.logs
        );
    }

    /// The repository's folder.
    pub fn repository(&self) -> PathBuf {
        self.folder.join("repository")
    }

    /// The folder of the daemon's own state.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// The port of `api`, `nbd`, `nfs`, or the first of `iscsi`.
    pub fn port(&self, service: &str) -> u16 {
        let text = fs::read_to_string(self.state().join("addresses.json"))
            .expect("the daemon has started");
        let addresses: Value = serde_json::from_str(&text).expect("addresses.json is JSON");
        let address = addresses
            .get(service)
            .and_then(|address| address.get(0).unwrap_or(address).as_str())
            .expect("the service has an address");
        address
            .parse::<SocketAddr>()
            .expect("an address with a port")
            .port()
    }

    /// What it has logged since it was made, over all its starts.
    pub fn log(&self) -> String {
        let running = self.process.as_ref().map(|process| process.stderr().all());
        format!("{}{}", self.logs, running.unwrap_or_default())
    }

    fn configuration(&self) -> String {
        let Listen {
            api,
            nbd,
            nfs,
            iscsi,
            portmapper,
        } = self.listen;
        let at = |port: u16| SocketAddr::new(IpAddr::V4(self.address), port);
        let portmapper = if portmapper == 0 {
            "off".to_owned()
        } else {
            at(portmapper).to_string()
        };
        // The first is where it was when it is started again.
        let first = format!("\"{}\"", at(iscsi));
        let others = (1..self.iscsi.portals).map(|_| format!("\"{}\"", at(0)));
        let portals: Vec<String> = std::iter::once(first).chain(others).collect();
        format!(
            "[repository]\npath = \"{}\"\n[state]\npath = \"{}\"\n[api]\nlisten = \"{}\"\n\
             [nbd]\nlisten = \"{}\"\n[nfs]\nlisten = \"{}\"\nportmapper = \"{portmapper}\"\n\
             [iscsi]\nlisten = [{}]\n{}",
            self.repository().display(),
            self.state().display(),
            at(api),
            at(nbd),
            at(nfs),
            portals.join(", "),
            self.iscsi.lines,
        )
    }

    fn keep_log(&mut self, process: &Process) {
        assert!(
            process.stderr().ends_within(LIMIT),
            "the log ends with the daemon"
        );
        self.logs.push_str(&process.stderr().all());
    }
}

impl Default for Iscsi {
    fn default() -> Self {
        Self {
            portals: 1,
            lines: String::new(),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
        let loud: Vec<&str> = self
            .logs
            .lines()
            .filter(|line| {
                [" WARN ", " ERROR ", "panicked at"]
                    .iter()
                    .any(|mark| line.contains(mark))
            })
            .filter(|line| {
                !self
                    .announced
                    .iter()
                    .any(|announced| line.contains(announced.as_str()))
            })
            .collect();
        if !thread::panicking() {
            assert!(
                loud.is_empty(),
                "the daemon's log has lines that nobody announced:\n{}",
                loud.join("\n")
            );
        }
    }
}

/// A `holdfast` command that finds the daemon whose state lies in that folder.
pub fn client(state: &Path) -> Command {
    let binary = profile_folder().join("holdfast");
    assert!(
        binary.is_file(),
        "there is no {}: build it first, as tests/run does",
        binary.display()
    );
    let mut command = Command::new(binary);
    command
        .env("HOLDFAST_STATE", state)
        .env_remove("HOLDFAST_SERVER")
        .env_remove("HOLDFAST_TOKEN");
    command
}

/// Waits for `READY=1`, or for the end of the daemon.
fn wait_until_ready(socket: &UnixDatagram, process: &Process) {
    let ended = process.stderr().clone();
    let own = socket.local_addr().expect("a bound socket");
    let path = own.as_pathname().expect("it has a path").to_path_buf();
    thread::spawn(move || {
        if ended.ends_within(LIMIT) {
            // Nobody may listen any more; then nobody waits.
            drop(UnixDatagram::unbound().and_then(|socket| socket.send_to(b"ENDED", path)));
        }
    });
    let mut message = [0; 64];
    let length = socket
        .recv(&mut message)
        .expect("the daemon becomes ready in time");
    let message = message.get(..length).unwrap_or_default();
    assert_eq!(
        String::from_utf8_lossy(message),
        "READY=1",
        "the daemon's log:\n{}",
        process.stderr().all()
    );
}
