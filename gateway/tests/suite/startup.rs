use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use export::Durability;
use holdfast::config::Config;

use crate::support::{Daemon, command, content, json_of, open_nbd, read_nbd, url};

#[test]
fn a_port_in_use_is_named_with_what_to_do() {
    let mut daemon = Daemon::start();
    daemon.stop();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let settings: [fn(&mut Config) -> &mut std::net::SocketAddr; 3] = [
        |config| &mut config.api.listen,
        |config| &mut config.nbd.listen,
        |config| &mut config.nfs.listen,
    ];
    for setting in settings {
        let mut config = daemon.config();
        *setting(&mut config) = address;
        let error = daemon.try_start(&config).unwrap_err().to_string();
        assert!(
            error.contains(&address.to_string()) && error.contains("another program uses it"),
            "{error}"
        );
    }
}

#[test]
fn a_second_daemon_on_the_repository_is_refused_and_the_first_goes_on() {
    let daemon = Daemon::start();
    let repository = daemon.path("repository");
    let second = command()
        .args(["serve", "--any-ports", "--repository"])
        .arg(&repository)
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let error = String::from_utf8_lossy(&second.stderr);
    assert!(error.contains("in use by another process"), "{error}");
    assert_eq!(daemon.call("GET", "/v1/workloads", "").status, 200);
}

#[test]
fn a_folder_that_is_no_repository_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = command()
        .args(["serve", "--repository"])
        .arg(folder.path())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("holdfast init"), "{error}");
    let none = command().arg("serve").output().unwrap();
    assert!(String::from_utf8_lossy(&none.stderr).contains("--repository DIR"));
}

#[test]
fn secrets_and_sockets_are_private_and_the_certificate_stays() {
    let mut daemon = Daemon::start();
    for name in [
        "token",
        "tokens.json",
        "key.der",
        "nfs.key",
        "control.sock",
        "nbd.sock",
    ] {
        let mode = std::fs::metadata(daemon.state().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0, "{name} is for its owner only");
    }
    let (fingerprint, token) = (
        daemon.gateway().addresses().fingerprint.clone(),
        daemon.token(),
    );
    daemon.restart();
    assert_eq!(
        (
            daemon.gateway().addresses().fingerprint.clone(),
            daemon.token()
        ),
        (fingerprint, token)
    );
}

#[test]
fn the_program_serves_is_ready_and_stops_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let repository = folder.path().join("repository");
    json_of(
        &command()
            .args(["--json", "init"])
            .arg(&repository)
            .output()
            .unwrap(),
    );
    let socket = std::os::unix::net::UnixDatagram::bind(folder.path().join("notify")).unwrap();
    let mut child = command()
        .args(["serve", "--any-ports", "--log", "warn", "--repository"])
        .arg(&repository)
        .env("NOTIFY_SOCKET", folder.path().join("notify"))
        .env("XDG_RUNTIME_DIR", folder.path())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let state = repository.join("daemon");
    let mut word = [0; 32];
    let length = socket.recv(&mut word).unwrap();
    assert_eq!(&word[..length], b"READY=1");
    let disk = folder.path().join("disk");
    std::fs::write(&disk, content(1)).unwrap();
    let mut backup = command();
    backup
        .args(["--json", "backup", "image", "web01"])
        .arg(&disk)
        .arg("--state")
        .arg(&state);
    assert_eq!(json_of(&backup.output().unwrap())["point"], "web01@1");
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(!state.join("control.sock").exists());
    let length = socket.recv(&mut word).unwrap();
    assert_eq!(&word[..length], b"STOPPING=1");
}

#[test]
fn a_killed_daemon_comes_back_with_its_sessions() {
    let folder = tempfile::tempdir().unwrap();
    let repository = folder.path().join("repository");
    json_of(
        &command()
            .args(["--json", "init"])
            .arg(&repository)
            .output()
            .unwrap(),
    );
    let mut child = serve(folder.path());
    let disk = folder.path().join("disk");
    std::fs::write(&disk, content(1)).unwrap();
    let cli = |arguments: &[&str]| {
        let mut command = command();
        command
            .arg("--json")
            .arg("--state")
            .arg(repository.join("daemon"));
        json_of(&command.args(arguments).output().unwrap())
    };
    cli(&["backup", "image", "web01", disk.to_str().unwrap()]);
    let session = cli(&["recover", "start", "web01@1", "--name", "lab"]);
    let mut client = open_nbd(url(&session, "nbd"));
    client
        .write_at(1 << 20, &[7; 4096], Durability::Stable)
        .unwrap();
    client
        .write_at(2 << 20, &[8; 4096], Durability::Unstable)
        .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let mut child = serve(folder.path());
    let session = cli(&["recover", "show", "lab"]);
    let mut expected = content(1);
    expected[1 << 20..(1 << 20) + 4096].fill(7);
    expected[2 << 20..(2 << 20) + 4096].fill(8);
    assert!(
        read_nbd(url(&session, "nbd")) == expected,
        "what was answered survives the end of the process"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A daemon in a process of its own, once it is ready.
fn serve(folder: &std::path::Path) -> std::process::Child {
    let path = folder.join("ready");
    drop(std::fs::remove_file(&path));
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let child = command()
        .args(["serve", "--any-ports", "--log", "warn", "--repository"])
        .arg(folder.join("repository"))
        .env("NOTIFY_SOCKET", &path)
        .env("XDG_RUNTIME_DIR", folder)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut word = [0; 32];
    let length = socket.recv(&mut word).unwrap();
    assert_eq!(&word[..length], b"READY=1");
    child
}
