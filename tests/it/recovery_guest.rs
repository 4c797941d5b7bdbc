//! The main job: a guest's disk is backed up twice, and the guest boots from either point.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use support::{
    Daemon, Drive, Guest, GuestFiles, Machine, assert_same_bytes, loopback_for_well_known_ports,
    need_root, scratch,
};
use tempfile::TempDir;

const MINUTE: Duration = Duration::from_secs(60);

/// A daemon that holds two points of the guest: `guest@1` and `guest@2`.
struct Backed {
    daemon: Daemon,
    files: GuestFiles,
    folder: TempDir,
}

impl Backed {
    /// `None` on a machine that can run no guest.
    fn up(daemon: impl FnOnce(&std::path::Path) -> Daemon) -> Option<Self> {
        let files = GuestFiles::find()?;
        let folder = scratch();
        let daemon = daemon(folder.path());
        for number in [1, 2] {
            assert_eq!(
                daemon.back_up("guest", &files.disk(number)),
                format!("guest@{number}")
            );
        }
        Some(Self {
            daemon,
            files,
            folder,
        })
    }

    fn start(&self, point: &str, protocol: &str) -> Session {
        let view = self
            .daemon
            .cli(["recover", "start", point, "--protocol", protocol]);
        Session {
            name: text(&view, "session").to_owned(),
            view,
        }
    }

    /// Restores a point and compares it with the disk that was backed up.
    fn assert_point_is_unchanged(&self, number: usize) {
        let restored: PathBuf = self.folder.path().join("restored.raw");
        let to = restored.to_str().expect("a plain path");
        self.daemon.cli([
            "restore",
            "image",
            &format!("guest@{number}"),
            "--to",
            to,
            "--overwrite",
        ]);
        assert_same_bytes(&self.files.disk(number), &restored);
        std::fs::remove_file(restored).expect("it was there");
    }
}

struct Session {
    name: String,
    view: Value,
}

impl Session {
    fn url(&self, protocol: &str) -> &str {
        text(
            self.view.pointer("/disks/0/urls").expect("one disk"),
            protocol,
        )
    }
}

#[test]
fn guest_boots_from_both_points_over_nbd_and_its_writes_are_discarded() {
    let Some(backed) = Backed::up(Daemon::start) else {
        return;
    };
    for number in [2, 1] {
        let session = backed.start(&format!("guest@{number}"), "nbd");
        let mut guest = boot(&backed, number, Drive::Url(session.url("nbd").to_owned()));
        write_and_read_back(&mut guest);
        guest.power_off();

        // What was written outlives the guest, but not the session.
        let mut guest = boot(
            &backed,
            number,
            Drive::Url(session.url("nbd_unix").to_owned()),
        );
        guest.must("cmp /srv/written /srv/written-too", MINUTE);
        guest.power_off();
        backed.daemon.cli(["recover", "discard", &session.name]);
        backed.assert_point_is_unchanged(number);
    }
}

#[test]
fn guest_boots_from_both_points_over_nfs_and_the_last_is_sealed() {
    let Some(()) = need_root() else { return };
    let address = loopback_for_well_known_ports();
    let Some(backed) = Backed::up(|folder| Daemon::start_at_well_known_ports(folder, address))
    else {
        return;
    };
    for number in [1, 2] {
        let session = backed.start(&format!("guest@{number}"), "nfs");
        let mut guest = boot(&backed, number, Drive::Url(qemu_url(session.url("nfs"))));
        write_and_read_back(&mut guest);
        guest.power_off();
        backed.assert_point_is_unchanged(number);
        if number == 1 {
            backed.daemon.cli(["recover", "discard", &session.name]);
        } else {
            let sealed = backed.daemon.cli(["recover", "seal", &session.name]);
            assert_eq!(text(&sealed["point"], "point"), "guest@3");
        }
    }

    // The sealed overlay is a point like any other.
    let session = backed.start("guest@3", "nfs");
    let mut guest = boot(&backed, 2, Drive::Url(qemu_url(session.url("nfs"))));
    guest.must("cmp /srv/written /srv/written-too", MINUTE);
    guest.power_off();
    backed.daemon.cli(["verify"]);
}

/// Files come out of a point, and out of a session whose guest is running: what it has synced is there, though nothing was
/// unmounted.
#[test]
fn files_of_a_guest_come_out_of_its_disk() {
    let Some(backed) = Backed::up(Daemon::start) else {
        return;
    };
    let out = backed.folder.path().join("out");
    let get = |from: &str, path: &str| {
        drop(std::fs::remove_file(&out));
        let to = out.to_str().expect("a plain path");
        backed.daemon.cli(["files", "get", from, path, "--to", to]);
        std::fs::read(&out).expect("it was written")
    };
    for (number, wanted) in [(1, "first version\n"), (2, "second version\n")] {
        let version = get(
            &format!("guest@{number}"),
            "disk-0/disk/etc/version-of-the-guest",
        );
        assert_eq!(version, wanted.as_bytes());
    }
    let session = backed.start("guest@1", "nbd");
    let mut guest = boot(&backed, 1, Drive::Url(session.url("nbd").to_owned()));
    guest.must(
        "mkdir /srv/new && dd if=/dev/urandom of=/srv/new/written bs=1M count=8 conv=fsync status=none && sync /srv/new",
        2 * MINUTE,
    );
    let sum = guest.must("sha256sum </srv/new/written", MINUTE);
    let written = get(&session.name, "disk-0/disk/srv/new/written");
    assert_eq!(written.len(), 8 << 20);
    let here = std::process::Command::new("sha256sum")
        .arg(&out)
        .output()
        .unwrap();
    let here = String::from_utf8_lossy(&here.stdout).into_owned();
    assert_eq!(here.split(' ').next(), sum.split(' ').next());
    guest.power_off();
}

/// What one boot writes, the next finds, though each has the disk in another format. QEMU looks for the second file of a
/// `vmdk` in the wrong folder when the first is at an NFS URL, so that one is not here.
#[test]
fn guest_boots_from_files_of_other_formats_and_writes() {
    let Some(()) = need_root() else { return };
    let address = loopback_for_well_known_ports();
    let Some(backed) = Backed::up(|folder| Daemon::start_at_well_known_ports(folder, address))
    else {
        return;
    };
    let view = backed.daemon.cli([
        "recover",
        "start",
        "guest@1",
        "--protocol",
        "nfs",
        "--format",
        "qcow2,vmdk-sparse,vhdx",
    ]);
    assert!(view.pointer("/disks/0/urls/nfs").is_none(), "{view}");
    let formats = view["disks"][0]["formats"].as_array().unwrap();
    assert_eq!(formats.len(), 3, "{view}");
    for (turn, file) in formats.iter().enumerate() {
        let format = match text(file, "format") {
            "qcow2" => "qcow2",
            "vhdx" => "vhdx",
            _ => "vmdk",
        };
        let url = qemu_url(text(file, "nfs"));
        let mut guest = boot(&backed, 1, Drive::Image(format, url));
        if turn > 0 {
            guest.must(
                "cmp /srv/written /srv/written-too && rm /srv/written*",
                MINUTE,
            );
        }
        write_and_read_back(&mut guest);
        guest.power_off();
    }
    let sealed = backed
        .daemon
        .cli(["recover", "seal", text(&view, "session")]);
    assert_eq!(text(&sealed["point"], "point"), "guest@3");
    backed.assert_point_is_unchanged(1);
    let session = backed.start("guest@3", "nbd");
    let mut guest = boot(&backed, 1, Drive::Url(session.url("nbd").to_owned()));
    guest.must("cmp /srv/written /srv/written-too", MINUTE);
    guest.power_off();
}

#[test]
fn guest_on_nbd_lives_through_a_killed_daemon() {
    let Some(mut backed) = Backed::up(Daemon::start) else {
        return;
    };
    let session = backed.start("guest@2", "nbd");
    let export = format!("{}/disk-0", session.name);
    let drive = Drive::nbd("127.0.0.1", backed.daemon.port("nbd"), &export, 5 * MINUTE);
    let mut guest = boot(&backed, 2, drive);
    under_load(&mut guest, "/srv", || {
        backed.daemon.kill();
        backed.daemon.serve();
    });
    guest.power_off();
    backed.daemon.cli(["recover", "discard", &session.name]);
    backed.assert_point_is_unchanged(2);
}

#[test]
fn guest_on_an_nfs_mount_lives_through_a_killed_daemon() {
    let Some(mut backed) = Backed::up(Daemon::start) else {
        return;
    };
    let session = backed.start("guest@2", "nfs");
    let own = backed.folder.path().join("own.raw");
    backed.files.copy_of_disk(1, &own);
    let mut guest = boot(&backed, 1, Drive::file(&own));
    crate::nfs_guest::mount(
        &mut guest,
        backed.daemon.port("nfs"),
        &format!("/{}", session.name),
    );
    under_load(&mut guest, "/mnt", || {
        backed.daemon.kill();
        backed.daemon.serve();
    });
    // The disk itself, written beside the page cache, through another crash: at this rate fio writes for ten seconds.
    guest.begin(
        "fio --minimal --name=disk --filename=/mnt/disk-0.raw --offset=1G --size=48M --rw=randwrite --bs=16k \
         --ioengine=libaio --iodepth=8 --direct=1 --rate_iops=300 --verify=crc32c --verify_fatal=1 \
         >/dev/shm/fio & \
         sleep 2; echo begun; wait $! && echo verified",
    );
    guest.wait_for("begun\n", 2 * MINUTE);
    backed.daemon.kill();
    backed.daemon.serve();
    let output = guest.finish(10 * MINUTE);
    assert_eq!((output.status, output.text.as_str()), (0, "verified\n"));
    guest.must("umount /mnt", MINUTE);
    guest.power_off();
    backed.daemon.cli(["recover", "discard", &session.name]);
    backed.assert_point_is_unchanged(2);
}

#[test]
fn guest_kernel_uses_a_recovery_session_over_nfs() {
    let Some(backed) = Backed::up(Daemon::start) else {
        return;
    };
    let session = backed.start("guest@1", "nfs");
    let own = backed.folder.path().join("own.raw");
    backed.files.copy_of_disk(1, &own);
    let mut guest = boot(&backed, 1, Drive::file(&own));
    crate::nfs_guest::mount(
        &mut guest,
        backed.daemon.port("nfs"),
        &format!("/{}", session.name),
    );
    crate::nfs_guest::exercise(&mut guest);
    // The disk of the point, mounted from the file that NFS shows.
    guest.must("modprobe loop && mkdir /inner && losetup /dev/loop0 /mnt/disk-0.raw && mount /dev/loop0 /inner", MINUTE);
    assert_eq!(
        guest.must("cat /inner/etc/version-of-the-guest", MINUTE),
        "first version\n"
    );
    guest.must(
        "umount /inner && losetup -d /dev/loop0 && umount /mnt",
        2 * MINUTE,
    );
    guest.power_off();
    backed.daemon.cli(["recover", "discard", &session.name]);
    backed.assert_point_is_unchanged(1);
}

/// Boots the guest whose disk 0 is a copy of disk `number`, to a shell.
#[expect(
    clippy::print_stdout,
    reason = "the figure belongs into the test's output"
)]
fn boot(backed: &Backed, number: usize, drive: Drive) -> Guest {
    let mut guest = Machine::new(&backed.files, drive).start();
    let time = guest.wait_for_login(backed.files.prompt(number));
    println!(
        "{:.1} s to the login prompt of disk {number}",
        time.as_secs_f64()
    );
    guest.log_in();
    guest
}

fn write_and_read_back(guest: &mut Guest) {
    guest.must(
        "dd if=/dev/urandom of=/srv/written bs=1M count=16 conv=fsync status=none",
        2 * MINUTE,
    );
    guest.must(
        "cp /srv/written /srv/written-too; sync; echo 3 >/proc/sys/vm/drop_caches",
        2 * MINUTE,
    );
    guest.must(
        "cmp /srv/written /srv/written-too; echo changed >/etc/version-of-the-guest; sync",
        2 * MINUTE,
    );
}

/// Writes in `folder` while `disturb` takes the server away and gives it back; then reads back and compares.
fn under_load(guest: &mut Guest, folder: &str, disturb: impl FnOnce()) {
    guest.must(
        "dd if=/dev/urandom of=/dev/shm/wanted bs=1M count=48 status=none",
        MINUTE,
    );
    guest.begin(&format!(
        "for n in $(seq 0 47); do
            dd if=/dev/shm/wanted of={folder}/written bs=1M count=1 skip=$n seek=$n conv=notrunc,fsync status=none || exit 1
            echo \"wrote $n\"
        done"
    ));
    guest.wait_for("wrote 5\n", 2 * MINUTE);
    disturb();
    let output = guest.finish(10 * MINUTE);
    assert_eq!(output.status, 0, "{}", output.text);
    guest.must(
        &format!("echo 3 >/proc/sys/vm/drop_caches; cmp /dev/shm/wanted {folder}/written"),
        5 * MINUTE,
    );
}

/// QEMU's NFS client takes no port: it asks the portmapper.
fn qemu_url(url: &str) -> String {
    url.replacen(":2049/", "/", 1)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value
        .get(name)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("{name} in {value}"))
}

/// A disk whose guest was cut off in the middle of its work is backed up without its free blocks: what the journal alone
/// knows is there, the guest boots, and finds what it had synced.
#[test]
fn guest_boots_from_the_used_blocks_of_a_disk_after_a_crash() {
    let Some(backed) = Backed::up(Daemon::start) else {
        return;
    };
    let session = backed.start("guest@2", "nbd");
    let mut guest = boot(&backed, 2, Drive::Url(session.url("nbd").to_owned()));
    guest.must(
        "rm -rf /usr/share/doc /usr/share/locale && mkdir /srv/new && \
         dd if=/dev/urandom of=/srv/new/written bs=1M count=8 conv=fsync status=none && sync /srv/new && \
         (dd if=/dev/urandom of=/srv/unfinished bs=64k count=999999 status=none & sleep 3)",
        3 * MINUTE,
    );
    let sum = guest.must("sha256sum </srv/new/written", MINUTE);
    guest.pull_the_plug();
    let sealed = backed.daemon.cli(["recover", "seal", &session.name]);
    assert_eq!(text(&sealed["point"], "point"), "guest@3");
    let disk = backed.folder.path().join("crashed.raw");
    let to = disk.to_str().expect("a plain path");
    backed
        .daemon
        .cli(["restore", "image", "guest@3", "--to", to]);
    let done = backed
        .daemon
        .cli(["backup", "image", "used", to, "--leave-out"]);
    println!("left out: {}", done["left_out"]);
    let left_out = &done["left_out"][0];
    assert_eq!(
        left_out["whole"].as_array().map(Vec::len),
        Some(0),
        "{left_out}"
    );
    assert!(left_out["bytes"].as_u64() > Some(100 << 20), "{left_out}");

    let session = backed.start("used@1", "nbd");
    let mut guest = boot(&backed, 2, Drive::Url(session.url("nbd").to_owned()));
    let after = guest.must("sha256sum </srv/new/written", MINUTE);
    assert_eq!(after, sum);
    guest.must("! dmesg | grep -E 'EXT4-fs (error|warning)'", MINUTE);
    guest.power_off();
}
