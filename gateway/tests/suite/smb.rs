//! Sessions and restore points as shares, used by Samba's own clients.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use holdfast::config::{Config, SmbEncryption};
use serde_json::{Value, json};

use crate::files::make_disk;
use crate::support::{Daemon, content, json_of, need, read_nbd, url};

/// Whether this machine can serve shares. Where it cannot, tests are left out, but not where all must run.
fn can_share() -> bool {
    let can = rustix::process::geteuid().is_root()
        && Path::new("/dev/fuse").exists()
        && smb::Programs::find().is_ok();
    assert!(
        can || std::env::var_os("CI").is_none(),
        "SMB cannot be served, and CI is set"
    );
    can && need("smbclient") && need("python3")
}

fn with_shares(config: &mut Config) {
    config.smb.listen = vec!["127.0.0.1".parse().unwrap()];
}

/// A share as a client sees it.
struct Client {
    folder: tempfile::TempDir,
    port: String,
    share: String,
    user: String,
    password: String,
}

impl Client {
    /// For the share of a session that was just started.
    fn new(session: &Value) -> Self {
        let share = &session["share"];
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let url = text(&share["url"]);
        let (place, name) = url.strip_prefix("smb://").unwrap().split_once('/').unwrap();
        Self {
            folder: tempfile::tempdir().unwrap(),
            port: place.rsplit(':').next().unwrap().to_owned(),
            share: format!("//127.0.0.1/{name}"),
            user: text(&share["user"]),
            password: text(&share["password"]),
        }
    }

    /// Samba's client, which is told what to do by its input.
    fn command(&self) -> Command {
        let own = self.folder.path();
        let text = format!(
            "[global]\nprivate dir = {0}\nlock directory = {0}\nstate directory = {0}\ncache directory = {0}\n",
            own.display()
        );
        fs::write(own.join("smb.conf"), text).unwrap();
        let mut command = Command::new("smbclient");
        command.arg("-s").arg(own.join("smb.conf"));
        command.args(["-p", &self.port, &self.share]);
        command.arg(format!("-U{}%{}", self.user, self.password));
        command.current_dir(own);
        command
    }

    fn run(&self, commands: &str) -> Result<String, String> {
        let output = self.command().args(["-c", commands]).output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        match output.status.success() && !text.contains("NT_STATUS_") {
            true => Ok(text),
            false => Err(text),
        }
    }

    fn read(&self, path: &str) -> Vec<u8> {
        self.run(&format!("get {path} got")).unwrap();
        fs::read(self.folder.path().join("got")).unwrap()
    }

    /// Writes into a file without cutting it first, which the plain client cannot.
    fn write_at(&self, file: &str, offset: usize, content: &[u8]) -> Output {
        let own = self.folder.path();
        fs::write(own.join("content"), content).unwrap();
        fs::create_dir_all(own.join(".smb")).unwrap();
        fs::write(own.join(".smb/smb.conf"), "").unwrap();
        let (host, share) = self.share[2..].split_once('/').unwrap();
        let url = format!(
            "smb://{}:{}@{host}:{}/{share}/{file}",
            self.user, self.password, self.port
        );
        let mut command = Command::new("python3");
        command.args(["-c", WRITE, &url, &offset.to_string()]);
        command.current_dir(own).env("HOME", own).output().unwrap()
    }
}

/// Opens a file that is there and writes `content` into it, with Samba's own library.
const WRITE: &str = r#"
import ctypes, os, sys
url, offset = sys.argv[1].encode(), int(sys.argv[2])
library = ctypes.CDLL("libsmbclient.so.0", use_errno=True)
library.smbc_lseek.restype = library.smbc_write.restype = ctypes.c_ssize_t
library.smbc_lseek.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int]
library.smbc_write.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t]
def done(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
nobody_asks = ctypes.CFUNCTYPE(None)(lambda: None)
done(library.smbc_init(nobody_asks, 0))
file = done(library.smbc_open(url, os.O_RDWR, 0))
done(library.smbc_lseek(file, offset, os.SEEK_SET))
content = open("content", "rb").read()
while content:
    content = content[done(library.smbc_write(file, content, len(content))):]
done(library.smbc_close(file))
"#;

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Mounts and processes that belong to a state folder.
fn left(state: &Path) -> (usize, usize) {
    let state = state.to_str().unwrap();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mounts = mounts.lines().filter(|line| line.contains(state)).count();
    let entries = fs::read_dir("/proc").unwrap();
    let configuration = format!("{state}/smb/smb.conf");
    let processes = entries
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok())
        .filter(|process| {
            let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&configuration)
        });
    (mounts, processes.count())
}

#[test]
fn a_session_is_a_share_and_the_point_stays_as_it_is() {
    if !can_share() {
        return;
    }
    let daemon = Daemon::start_with(with_shares);
    let original = content(3);
    daemon.back_up("web01", &original);
    let session = daemon.json(&[
        "recover",
        "start",
        "web01@1",
        "--name",
        "lab",
        "--protocol",
        "smb,nbd",
    ]);
    assert_eq!(session["disks"][0]["formats"][0]["format"], "vhdx");
    let path = session["disks"][0]["urls"]["smb"].as_str().unwrap();
    assert_eq!(path, "\\\\127.0.0.1\\lab\\disk-0.raw");
    let client = Client::new(&session);
    assert!(client.read("disk-0.raw") == original);
    let listed = client.run("ls").unwrap();
    assert!(listed.contains("disk-0.vhdx"), "{listed}");
    let written = client.write_at("disk-0.raw", 1 << 20, &[0xab; 200_000]);
    assert!(written.status.success(), "{written:?}");
    let mut expected = original.clone();
    expected[1 << 20..][..200_000].fill(0xab);
    assert!(client.read("disk-0.raw") == expected);
    assert!(
        read_nbd(url(&session, "nbd_unix")) == expected,
        "it is in the overlay"
    );
    // A hypervisor puts its own files beside the disks.
    fs::write(client.folder.path().join("vm.xml"), "<machine/>").unwrap();
    client.run("put vm.xml").unwrap();
    assert_eq!(client.read("vm.xml"), b"<machine/>");

    let point = daemon.json(&[
        "recover",
        "start",
        "web01@1",
        "--read-only",
        "--protocol",
        "nbd",
    ]);
    assert!(
        read_nbd(url(&point, "nbd_unix")) == original,
        "the backup is untouched"
    );
    let sealed = daemon.json(&["recover", "seal", "lab"]);
    assert_eq!(sealed["point"]["point"], "web01@2");
    client.run("ls").unwrap_err();
    assert_eq!(
        left(&daemon.state()).0,
        1,
        "only the folder of mount points is mounted"
    );
}

#[test]
fn the_file_for_hyper_v_is_the_same_disk() {
    if !can_share() || !need("qemu-img") {
        return;
    }
    let daemon = Daemon::start_with(with_shares);
    let mut content = content(3);
    daemon.back_up("web01", &content);
    let session = daemon.json(&["recover", "start", "web01@1", "--protocol", "smb,nbd"]);
    let client = Client::new(&session);
    // The head of the file lies before the data.
    let face = client.read("disk-0.vhdx");
    let start = 199_000..201_000;
    let mut windows = face.windows(start.len());
    let found = windows.position(|window| *window == content[start.clone()]);
    let written = client.write_at("disk-0.vhdx", found.unwrap() - start.start, b"by the face");
    assert!(written.status.success(), "{written:?}");
    content[..11].copy_from_slice(b"by the face");
    assert!(client.read("disk-0.raw") == content);
    assert!(read_nbd(url(&session, "nbd_unix")) == content);
    client.run("get disk-0.vhdx again.vhdx").unwrap();
    fs::write(client.folder.path().join("expected"), &content).unwrap();
    let mut compare = Command::new("qemu-img");
    compare.args([
        "compare",
        "-f",
        "vhdx",
        "-F",
        "raw",
        "again.vhdx",
        "expected",
    ]);
    let compared = compare.current_dir(client.folder.path()).output().unwrap();
    assert!(compared.status.success(), "{compared:?}");
}

#[test]
fn a_password_is_shown_once_and_ends_with_its_session() {
    if !can_share() {
        return;
    }
    let daemon = Daemon::start_with(with_shares);
    daemon.back_up("web01", &content(3));
    let start = [
        "recover",
        "start",
        "web01@1",
        "--name",
        "lab",
        "--protocol",
        "smb",
    ];
    let session = daemon.json(&start);
    let first = Client::new(&session);
    first.run("ls").unwrap();
    for arguments in [&start[..], &["recover", "show", "lab"]] {
        let again = daemon.json(arguments);
        assert_eq!(again["share"]["user"], session["share"]["user"]);
        assert!(again["share"]["password"].is_null(), "{again}");
    }
    let told = daemon.cli(&["recover", "show", "lab"]);
    assert!(!String::from_utf8_lossy(&told.stdout).contains(&first.password));
    let wrong = Client {
        password: "wrong".to_owned(),
        ..Client::new(&session)
    };
    wrong.run("ls").unwrap_err();
    daemon.json(&["recover", "stop", "lab"]);
    first.run("ls").unwrap_err();
    let second = Client::new(&daemon.json(&start));
    assert_ne!(second.password, first.password);
    first.run("ls").unwrap_err();
    second.run("ls").unwrap();
    daemon.json(&["recover", "discard", "lab"]);
    second.run("ls").unwrap_err();
    let state = fs::read(daemon.state().join("smb/smb.conf")).unwrap();
    assert!(!String::from_utf8_lossy(&state).contains("[lab]"));
}

#[test]
fn who_must_encrypt_does_and_all_sign() {
    if !can_share() {
        return;
    }
    for (required, wanted, is_encrypted) in [
        (SmbEncryption::Allow, "off", false),
        (SmbEncryption::Allow, "required", true),
        (SmbEncryption::Require, "off", true),
    ] {
        let daemon = Daemon::start_with(|config| {
            with_shares(config);
            config.smb.encryption = required;
        });
        daemon.back_up("web01", &content(3));
        let arguments = ["recover", "start", "web01@1", "--protocol", "smb"];
        let client = Client::new(&daemon.json(&arguments));
        let mut command = client.command();
        command.args([
            "--option=client signing=off",
            &format!("--option=client smb encrypt={wanted}"),
        ]);
        // It stays for as long as it is not told to go.
        command.stdin(Stdio::piped());
        let mut process = command.stdout(Stdio::null()).spawn().unwrap();
        let status = || daemon.json(&["smb", "status"])["connections"].clone();
        eventually("the client logs in", || {
            let connection = &status()[0];
            !connection.is_null() && connection["encryption"].is_null() != is_encrypted
        });
        let connection = &status()[0];
        assert_eq!(connection["user"], client.user.as_str());
        assert_eq!(connection["dialect"], "SMB3_11");
        assert!(!connection["signing"].is_null(), "{connection}");
        let told = daemon.cli(&["smb", "status"]);
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(
            told.contains(&format!("{} from 127.0.0.1: SMB3_11", client.user)),
            "{told}"
        );
        drop(process.stdin.take());
        process.wait().unwrap();
    }
}

#[test]
fn files_of_a_point_are_shared_with_their_earlier_versions() {
    if !can_share() {
        return;
    }
    let daemon = Daemon::start_with(with_shares);
    let tree = daemon.path("tree");
    fs::create_dir_all(tree.join("etc")).unwrap();
    for version in ["first", "second"] {
        fs::write(tree.join("etc/hostname"), version).unwrap();
        let disk = daemon.path("guest.raw");
        make_disk(&tree, &disk);
        let now = || jiff::Timestamp::now().as_second();
        let second = now();
        daemon.json(&["backup", "image", "web01", disk.to_str().unwrap()]);
        eventually("the next second comes", || now() > second + 1);
    }
    let session = daemon.json(&["share", "web01@latest", "--name", "files"]);
    assert_eq!(session["mode"], "read-only");
    assert_eq!(session["share"]["files"], json!(true));
    let client = Client::new(&session);
    assert_eq!(client.read("disk-0\\p1\\etc\\hostname"), b"second");
    let told = client.run("allinfo disk-0/p1/etc/hostname").unwrap();
    let mut versions: Vec<&str> = told
        .lines()
        .filter(|line| line.starts_with("@GMT-"))
        .collect();
    versions.sort_unstable();
    assert_eq!(versions.len(), 2, "{told}");
    let old = format!("{}\\disk-0\\p1\\etc\\hostname", versions[0].trim());
    assert_eq!(client.read(&old), b"first");
    client.run("put smb.conf new").unwrap_err();
    client.run("rm disk-0\\p1\\etc\\hostname").unwrap_err();

    let described = daemon.json(&["smb", "export-sambacc"]);
    assert_eq!(described["samba-container-config"], "v0");
    assert_eq!(described["shares"]["files"]["options"]["read only"], "yes");
    let status = daemon.json(&["smb", "status"]);
    assert_eq!(status["phase"], "running");
    assert_eq!(status["shares"], json!(["files"]));
    let refused = daemon.cli(&["recover", "seal", "files"]);
    assert_eq!(refused.status.code(), Some(1));
    daemon.json(&["recover", "discard", "files"]);
    client.run("ls").unwrap_err();
}

/// A daemon in a process of its own, which a test that fails does not leave.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The program with no more rights than `docs/operations/smb.md` says that it takes.
fn as_the_unit_runs_it() -> Command {
    let page = include_str!("../../../docs/operations/smb.md");
    let mut lines = page.lines().map(str::trim);
    let rights = lines.find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let rights = rights.unwrap().to_lowercase().replace(" cap_", ",+");
    let bounding = rights.replacen("cap_", "-all,+", 1);
    let mut command = Command::new("setpriv");
    command.args(["--no-new-privs", "--bounding-set", &bounding, "--"]);
    command.args(["sh", "-c", "umask 077; exec \"$@\"", "sh"]);
    command.arg(env!("CARGO_BIN_EXE_holdfast"));
    command
}

#[test]
fn shares_come_back_with_their_passwords_after_a_kill() {
    if !can_share() {
        return;
    }
    let mut daemon = Daemon::start();
    daemon.back_up("web01", &content(3));
    daemon.stop();
    let configuration = daemon.path("holdfast.toml");
    let text = "[smb]\nlisten = [\"127.0.0.1\"]\n[iscsi]\nlisten = []\n";
    fs::write(&configuration, text).unwrap();
    let serve = || -> Served {
        let mut command = as_the_unit_runs_it();
        command.args(["serve", "--any-ports", "--log", "warn", "--config"]);
        command.arg(&configuration).arg("--repository");
        command.arg(daemon.path("repository")).stderr(Stdio::null());
        let child = Served(command.spawn().unwrap());
        eventually("the daemon serves", || {
            let listed = daemon.cli(&["recover", "list"]);
            listed.status.success()
        });
        child
    };
    let mut first = serve();
    let start = [
        "recover",
        "start",
        "web01@1",
        "--name",
        "lab",
        "--protocol",
        "smb",
        "--format",
        "raw",
    ];
    let mut client = Client::new(&daemon.json(&start));
    let written = client.write_at("disk-0.raw", 4096, b"kept");
    assert!(written.status.success(), "{written:?}");
    assert!(left(&daemon.state()).1 > 0);

    first.0.kill().unwrap();
    assert_eq!(first.0.wait().unwrap().signal(), Some(9));
    eventually("smbd ends with the daemon", || left(&daemon.state()).1 == 0);

    let mut second = serve();
    let session = daemon.json(&["recover", "show", "lab"]);
    assert_eq!(session["state"], "active");
    client.port = session["share"]["url"].as_str().unwrap()[16..]
        .split('/')
        .next()
        .unwrap()
        .to_owned();
    let content = client.read("disk-0.raw");
    assert_eq!(&content[4096..4100], b"kept");
    let mounts = left(&daemon.state()).0;
    assert_eq!(mounts, 2, "the session's folder, in that of mount points");
    let doctor = daemon.cli(&["doctor"]);
    let found = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(found.contains("smbd answers at 127.0.0.1:"), "{found}");

    let pid = rustix::process::Pid::from_child(&second.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(second.0.wait().unwrap().success());
    assert_eq!(left(&daemon.state()), (0, 0), "nothing is left");
}

#[test]
fn a_daemon_without_shares_says_what_to_do() {
    let daemon = Daemon::start();
    daemon.back_up("web01", &content(3));
    for arguments in [
        &["recover", "start", "web01@1", "--protocol", "smb"][..],
        &["share", "web01@1"],
        &["smb", "status"],
        &["smb", "export-sambacc"],
    ] {
        let refused = daemon.cli(arguments);
        assert_eq!(refused.status.code(), Some(1));
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(told.contains("set `listen` under [smb]"), "{told}");
    }
    let body = r#"{"point": "web01@1", "files": true, "protocols": ["nbd"]}"#;
    let refused = daemon.call("POST", "/v1/recoveries", body);
    assert_eq!(refused.status, 400, "{refused:?}");
    let usual = json_of(&daemon.cli(&["--json", "recover", "start", "web01@1"]));
    assert!(usual["share"].is_null());
    let doctor = daemon.cli(&["doctor"]);
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("SMB"));
}
