//! How the server begins, is hurt, and ends.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use smb::{Access, Encryption, Login, Metrics, Phase, Server, SmbError};

use crate::support::{Setup, User, can_serve, eventually, processes_of};

fn kill(process: u32) {
    let process = Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
    kill_process(process, Signal::KILL).unwrap();
}

#[test]
fn stopping_ends_every_process_and_starting_again_keeps_passwords() {
    if !can_serve() {
        return;
    }
    let mut setup = Setup::start(Encryption::Allow);
    let share = setup.share("disks", 1, Access::ReadWrite);
    let user = setup.add(share.clone());
    // Lists are made by further processes of Samba's.
    setup.client("disks", &user, "ls").good();
    let state = setup.settings.folder.clone();
    assert!(!processes_of(&state).is_empty());
    let log = fs::read_to_string(state.join("log/log.smbd")).unwrap();
    assert!(log.contains("started"), "{log}");
    drop(setup.server.take());
    assert_eq!(processes_of(&state), [0; 0]);
    setup.server = Some(Server::start(setup.settings.clone(), Metrics::default()).unwrap());
    assert!(setup.server().add(share, Login::Kept).unwrap().is_none());
    setup.client("disks", &user, "ls").good();
    let machine = fs::read_to_string("/etc/passwd").unwrap();
    assert!(
        !machine.contains("holdfast-1:"),
        "the machine's users are as they were"
    );
}

#[test]
fn users_stay_when_the_machine_gets_others() {
    if !can_serve() {
        return;
    }
    let setup = Setup::start(Encryption::Allow);
    let user = setup.add(setup.share("disks", 1, Access::ReadWrite));
    let process = setup.server().health().process.unwrap();
    for file in ["/etc/passwd", "/etc/group"] {
        // The kernel does the same when `useradd` puts a new file in the place of the old one.
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &process.to_string()]);
        let taken_off = command.args(["umount", file]).output().unwrap();
        assert!(taken_off.status.success(), "{taken_off:?}");
    }
    let seen = || fs::read_to_string(format!("/proc/{process}/root/etc/passwd")).unwrap();
    eventually("smbd sees our users", || seen().contains("holdfast-1:"));
    setup.client("disks", &user, "ls").good();
    assert_eq!(setup.server().health().restarts, 0);
}

#[test]
fn a_killed_smbd_comes_back_with_its_shares() {
    if !can_serve() {
        return;
    }
    let setup = Setup::start(Encryption::Allow);
    let share = setup.share("disks", 1, Access::ReadWrite);
    let large = fs::File::create(share.path.join("large")).unwrap();
    large.set_len(3 << 30).unwrap();
    let user = setup.add(share);
    let before = setup.server().health();
    assert_eq!(
        (before.phase, before.restarts, before.shares),
        (Phase::Running, 0, 1)
    );
    let mut command = setup.client_command();
    command.args(["//127.0.0.1/disks", "-c", "get large /dev/null"]);
    Setup::log_in(&mut command, &user);
    command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let mut transfer = command.spawn().unwrap();
    eventually("the transfer runs", || {
        !setup.server().connections().unwrap().is_empty()
    });
    kill(before.process.unwrap());
    assert!(
        !transfer.wait().unwrap().success(),
        "the transfer broke off"
    );
    eventually("smbd is started again", || {
        let health = setup.server().health();
        health.phase == Phase::Running && health.restarts == 1
    });
    let after = setup.server().health();
    assert_ne!(after.process, before.process);
    let end = after.last_end.unwrap();
    assert!(end.contains("killed"), "{end}");
    setup.client("disks", &user, "ls").good();
    // Another share comes up as before.
    let second = setup.add(setup.share("second", 2, Access::ReadWrite));
    setup.client("second", &second, "ls").good();
}

#[test]
fn what_a_killed_process_left_is_ended_first() {
    if !can_serve() {
        return;
    }
    let mut setup = Setup::start(Encryption::Allow);
    drop(setup.server.take());
    let mut left = Command::new("smbd")
        .args(["-F", "--no-process-group", "-s"])
        .arg(setup.settings.folder.join("smb.conf"))
        .process_group(0)
        .spawn()
        .unwrap();
    let address = setup.settings.reachable();
    eventually("the one that is left listens", || {
        std::net::TcpStream::connect(address).is_ok()
    });
    setup.server = Some(Server::start(setup.settings.clone(), Metrics::default()).unwrap());
    assert_eq!(left.wait().unwrap().signal(), Some(9));
    let user = setup.add(setup.share("disks", 1, Access::ReadWrite));
    setup.client("disks", &user, "ls").good();
}

#[test]
fn what_cannot_work_is_said_before_anything_runs() {
    if !can_serve() {
        return;
    }
    let mut setup = Setup::start(Encryption::Allow);
    drop(setup.server.take());
    let taken = TcpListener::bind(("127.0.0.1", setup.settings.port)).unwrap();
    let error = Server::start(setup.settings.clone(), Metrics::default()).unwrap_err();
    assert!(
        error.to_string().contains("the port cannot be used"),
        "{error}"
    );
    drop(taken);
    let mut settings = setup.settings.clone();
    settings.port = 0;
    assert!(matches!(
        Server::start(settings, Metrics::default()),
        Err(SmbError::NoPort)
    ));
    let mut settings = setup.settings.clone();
    settings.folder = setup.folder("a%b");
    assert!(matches!(
        Server::start(settings, Metrics::default()),
        Err(SmbError::BadValue(_))
    ));
    assert_eq!(processes_of(&setup.settings.folder), [0; 0]);
}

#[test]
fn mounts_made_later_are_seen() {
    if !can_serve() {
        return;
    }
    let mounted = tempfile::Builder::new()
        .prefix("smb-mounts-")
        .tempdir()
        .unwrap();
    let points = smb::MountPoints::prepare(&mounted.path().join("mounts")).unwrap();
    let setup = Setup::start(Encryption::Allow);
    let path = points.create("17").unwrap();
    rustix::mount::mount(
        "test",
        &path,
        "tmpfs",
        rustix::mount::MountFlags::NODEV,
        None,
    )
    .unwrap();
    fs::write(path.join("inside"), b"seen").unwrap();
    let mut share = setup.share("disks", 1, Access::ReadWrite);
    share.path = path.clone();
    let user: User = setup.add(share);
    setup.client("disks", &user, "get inside /dev/null").good();
    // A process that was killed leaves all that, and the next one begins anew.
    std::mem::forget(points);
    let points = smb::MountPoints::prepare(&mounted.path().join("mounts")).unwrap();
    assert!(!path.exists());
    setup
        .client("disks", &user, "get inside /dev/null")
        .refused("NT_STATUS_");
    drop(points);
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(
        !table.contains(mounted.path().to_str().unwrap()),
        "nothing is left mounted"
    );
}
