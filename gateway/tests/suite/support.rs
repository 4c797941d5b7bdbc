//! A daemon on any free ports, and the means to talk to it.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use holdfast::config::Config;
use holdfast::{Gateway, StartError};
use nbd::client::{Address, Client as NbdClient, ConnectOptions};
use nfs::client::{Client as NfsClient, Identity};
use repo::{CreateOptions, RepoError, Repository};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A repository with a daemon that can be restarted.
pub(crate) struct Daemon {
    pub(crate) folder: TempDir,
    pub(crate) runtime: Runtime,
    gateway: Option<Gateway>,
}

/// An answer of the HTTP interface.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        Self::start_with(|_| {})
    }

    pub(crate) fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Repository::create(&folder.path().join("repository"), &CreateOptions::default()).unwrap();
        Self::start_on(folder, change)
    }

    /// On an encrypted repository, made by the command line with a key file.
    pub(crate) fn start_encrypted() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        let made = command()
            .args(["init", "--encrypt", "--key-file"])
            .args([&key, &folder.path().join("repository")])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        Self::start_on(folder, |_| {})
    }

    fn start_on(folder: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let mut daemon = Self {
            folder,
            runtime,
            gateway: None,
        };
        let mut config = daemon.config();
        change(&mut config);
        daemon.gateway = Some(daemon.runtime.block_on(Gateway::start(config)).unwrap());
        daemon
    }

    pub(crate) fn config(&self) -> Config {
        let mut config = Config::for_repository(&self.path("repository")).with_any_ports();
        config.repository.key_file = Some(self.path("key")).filter(|path| path.exists());
        // What a test locks goes with its folder.
        config.repository.protect_files = false;
        // This process is the tests, which is nothing that reads disks.
        config.files.reader_program = Some(env!("CARGO_BIN_EXE_holdfast").into());
        config
    }

    pub(crate) fn stop(&mut self) {
        let gateway = self.gateway.take().expect("the daemon runs");
        self.runtime.block_on(gateway.stop());
    }

    /// Starts a daemon that was stopped, told something else.
    pub(crate) fn run(&mut self, config: &Config) {
        self.gateway = Some(self.try_start(config).unwrap());
    }

    pub(crate) fn restart(&mut self) {
        self.stop();
        let config = self.config();
        self.gateway = Some(self.try_start(&config).unwrap());
    }

    /// Starts a daemon on the repository of one that was stopped. Other tests in this process start programs, each of
    /// which holds the repository's lock for the moment between its fork and its exec: so this tries for a while.
    pub(crate) fn try_start(&self, config: &Config) -> Result<Gateway, StartError> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match self.runtime.block_on(Gateway::start(config.clone())) {
                Err(StartError::Repository(RepoError::InUse { .. }))
                    if Instant::now() < deadline =>
                {
                    std::thread::yield_now();
                }
                started => return started,
            }
        }
    }

    pub(crate) fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().expect("the daemon runs")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("repository/daemon")
    }

    pub(crate) fn token(&self) -> String {
        std::fs::read_to_string(self.state().join("token"))
            .unwrap()
            .trim()
            .to_owned()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// One request over the control socket, which needs no token.
    pub(crate) fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        self.send(format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .as_bytes())
    }

    /// Raw bytes over the control socket, to the end of the answer.
    pub(crate) fn send(&self, request: &[u8]) -> Answer {
        let mut stream = UnixStream::connect(&self.gateway().addresses().control_socket).unwrap();
        // The daemon may answer and close before it has read everything.
        drop(stream.write_all(request));
        let mut text = Vec::new();
        drop(stream.read_to_end(&mut text));
        Answer::parse(&text)
    }

    /// The command line, as somebody on another machine uses it: over TLS with token and fingerprint.
    pub(crate) fn remote_cli(&self, arguments: &[&str]) -> Output {
        let addresses = self.gateway().addresses();
        let mut command = self.plain_command();
        command
            .arg("--server")
            .arg(format!("https://{}", addresses.api));
        command.arg("--token-file").arg(self.state().join("token"));
        command.arg("--fingerprint").arg(&addresses.fingerprint);
        command.args(arguments).output().unwrap()
    }

    /// The status of a request over TLS with a token, by a client that is not ours.
    pub(crate) fn remote_call(&self, token: &str, method: &str, path: &str) -> u16 {
        let url = format!("https://{}{path}", self.gateway().addresses().api);
        let header = format!("Authorization: Bearer {token}");
        let mut command = Command::new("curl");
        command.args([
            "-sk",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-H",
            &header,
        ]);
        let output = command.args(["-X", method, &url]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).parse().unwrap()
    }

    /// The command line on the daemon's own machine.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.plain_command();
        command.arg("--state").arg(self.state()).args(arguments);
        command
    }

    /// The JSON that a command prints, which must succeed.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(arguments);
        json_of(&self.cli(&all))
    }

    /// Backs up a disk with this content.
    pub(crate) fn back_up(&self, workload: &str, content: &[u8]) -> Value {
        let file = self.path("disk.raw");
        std::fs::write(&file, content).unwrap();
        self.json(&["backup", "image", workload, file.to_str().unwrap()])
    }

    pub(crate) fn plain_command(&self) -> Command {
        command()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            self.runtime.block_on(gateway.stop());
        }
    }
}

impl Answer {
    pub(crate) fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or(0);
        let from = body.find(['{', '[']).unwrap_or(0);
        let to = body.rfind(['}', ']']).map_or(from, |end| end + 1);
        Self {
            status,
            body: serde_json::from_str(&body[from..to]).unwrap_or(Value::Null),
        }
    }

    pub(crate) fn detail(&self) -> &str {
        self.body["detail"].as_str().unwrap_or_default()
    }
}

/// The program without anything of this process's environment that it looks at.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    for name in [
        "SERVER",
        "TOKEN",
        "FINGERPRINT",
        "STATE",
        "REPOSITORY",
        "CONFIG",
        "LOG",
        "GUEST_DIR",
        "PASSPHRASE",
        "PASSPHRASE_FILE",
        "KEY_FILE",
        "KEY_COMMAND",
        "INGEST",
    ] {
        command.env_remove(format!("HOLDFAST_{name}"));
    }
    command
}

/// Whether another's program is here. A test that lacks one is skipped on a laptop and fails where `CI` is set.
pub(crate) fn need(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    assert!(
        found || std::env::var_os("CI").is_none(),
        "{program} is missing, and CI is set"
    );
    found
}

pub(crate) fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Reads a whole disk over NBD.
pub(crate) fn read_nbd(url: &str) -> Vec<u8> {
    let mut client = open_nbd(url);
    let mut content = vec![0; usize::try_from(client.export().size_bytes).unwrap()];
    client.read_at(0, &mut content).unwrap();
    content
}

pub(crate) fn open_nbd(url: &str) -> NbdClient {
    let (address, name) = Address::parse_uri(url).unwrap();
    NbdClient::connect(&address, &name, &ConnectOptions::default()).unwrap()
}

pub(crate) fn mount(nfs: SocketAddr, path: &str) -> NfsClient {
    NfsClient::mount(nfs, nfs, path, &Identity::root()).unwrap()
}

/// A disk with data in some places.
pub(crate) fn content(seed: u8) -> Vec<u8> {
    let mut content = vec![0; 3 << 20];
    for (index, byte) in content.iter_mut().enumerate().skip(200_000).take(1_000_000) {
        *byte = u8::try_from(index * 31 % 251).unwrap() ^ seed;
    }
    content
}

pub(crate) fn url<'a>(session: &'a Value, kind: &str) -> &'a str {
    session["disks"][0]["urls"][kind]
        .as_str()
        .unwrap_or_else(|| panic!("no {kind} in {session}"))
}

/// A pipe whose reader is gone.
pub(crate) fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// Runs a command whose results nobody reads; what it says and its exit status are those of other programs.
pub(crate) fn ends_quietly(mut command: Command) {
    let output = command.stdout(closed_pipe()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        (output.status.code(), &*told),
        (Some(141), ""),
        "{command:?}"
    );
}
