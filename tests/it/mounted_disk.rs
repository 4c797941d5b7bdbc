//! A disk of a recovery session as a file of a folder, under the file system exerciser.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use support::{Daemon, GuestFiles, Noise, Process, need_root, run, scratch};

/// Reads, writes, both through memory maps, synchronization and hints, each read compared with what fsx remembers. What
/// changes the length of a file is left out: a disk has one.
const OPERATIONS: &str = "
flen = 16777216
blockmode = true
[opsize]
max = 262144
[weights]
read = 10
write = 10
mapread = 10
mapwrite = 10
sendfile = 2
invalidate = 1
fsync = 1
fdatasync = 1
posix_fadvise = 1
close_open = 0
truncate = 0
posix_fallocate = 0
punch_hole = 0
copy_file_range = 0
";

/// The exerciser of the guest with the test tools.
fn fsx() -> Option<PathBuf> {
    let fsx = GuestFiles::find()?.path("../fsx/bin/fsx");
    let found = fsx.is_file();
    assert!(
        found || std::env::var_os("CI").is_none(),
        "CI has fsx, which tests/run makes"
    );
    found.then_some(fsx)
}

#[test]
fn a_mounted_disk_of_a_guest_keeps_what_the_exerciser_writes() {
    let Some(()) = need_root() else { return };
    let Some(fsx) = fsx() else { return };
    let folder = scratch();
    let mut daemon = Daemon::start(folder.path());
    let disk = folder.path().join("disk.raw");
    Noise::new(7).file(&disk, 16 << 20);
    daemon.back_up("web01", &disk);
    daemon.cli(["recover", "start", "web01@1", "--name", "lab"]);
    let mounted = folder.path().join("mounted");
    fs::create_dir(&mounted).unwrap();
    let mut mount = Process::start(
        daemon
            .command()
            .args(["mount", "lab", "--write", "--format", "raw"])
            .arg(&mounted),
    );
    mount
        .stderr()
        .wait_for("is mounted on", 0, Duration::from_secs(60));
    let operations = folder.path().join("fsx.toml");
    fs::write(&operations, OPERATIONS).unwrap();
    let file = mounted.join("disk-0.raw");
    for seed in ["1", "2", "3"] {
        let said = run(Command::new(&fsx)
            .arg("-f")
            .arg(&operations)
            .args(["-N", "1500", "-S", seed, "-P"])
            .arg(folder.path())
            .arg(&file));
        assert!(said.contains("A-OK"), "{said}");
    }
    let written = fs::read(&file).unwrap();
    run(Command::new("umount").arg(&mounted));
    assert!(mount.wait(Duration::from_secs(60)).success());
    // It is in the session's overlay, also after the daemon was killed; the point is as it was.
    daemon.kill();
    daemon.serve();
    let sealed = daemon.cli(["recover", "seal", "lab"]);
    for (point, wanted) in [
        (sealed["point"]["point"].as_str().unwrap(), written),
        ("web01@1", fs::read(&disk).unwrap()),
    ] {
        let out = folder.path().join(point);
        daemon.cli(["restore", "image", point, "--to", out.to_str().unwrap()]);
        assert!(fs::read(&out).unwrap() == wanted, "{point}");
    }
}
