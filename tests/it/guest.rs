//! The harness itself, against servers that are not ours: if these fail, look at the machine first.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use support::{Drive, Guest, GuestFiles, Machine, Process, free_port, need, scratch};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn guest_boots_from_a_file_and_keeps_what_it_writes() {
    let Some(files) = GuestFiles::find() else {
        return;
    };
    let folder = scratch();
    let disk = folder.path().join("disk.raw");
    files.copy_of_disk(1, &disk);

    let mut guest = Machine::new(&files, Drive::file(&disk)).start();
    guest.wait_for_login(files.prompt(1));
    guest.log_in();
    assert_eq!(
        guest.must("cat /etc/version-of-the-guest", MINUTE),
        "first version\n"
    );
    assert_eq!(guest.run("exit 7", MINUTE).status, 7);
    guest.must("echo kept >/srv/kept\nsync", MINUTE);
    guest.power_off();

    let mut guest = Machine::new(&files, Drive::file(&disk)).start();
    guest.wait_for_login(files.prompt(1));
    guest.log_in();
    assert_eq!(guest.must("cat /srv/kept", MINUTE), "kept\n");
    guest.power_off();
}

#[test]
fn guest_boots_over_nbd_and_lives_through_a_restart_of_the_server() {
    let (Some(files), Some(_)) = (GuestFiles::find(), need("qemu-nbd")) else {
        return;
    };
    let folder = scratch();
    let disk = folder.path().join("disk.raw");
    files.copy_of_disk(2, &disk);
    let port = free_port(Ipv4Addr::LOCALHOST);
    let serve = || {
        let mut command = Command::new("qemu-nbd");
        command.args([
            "--format=raw",
            "--persistent",
            "--bind=127.0.0.1",
            "--shared=4",
            "--cache=writeback",
        ]);
        command.arg(format!("--port={port}")).arg(&disk);
        Process::start(&mut command)
    };

    let mut server = serve();
    wait_for_port(port);
    let mut guest = Machine::new(&files, Drive::nbd("127.0.0.1", port, "", 2 * MINUTE)).start();
    guest.wait_for_login(files.prompt(2));
    guest.log_in();
    write_a_lot(&mut guest, || {
        server.kill();
        server = serve();
    });
    guest.power_off();
}

/// Writes while `disturb` takes the disk away and gives it back; then reads back and compares.
fn write_a_lot(guest: &mut Guest, disturb: impl FnOnce()) {
    guest.must(
        "dd if=/dev/urandom of=/dev/shm/wanted bs=1M count=64 status=none",
        MINUTE,
    );
    guest.begin(
        "for n in $(seq 0 63); do
            dd if=/dev/shm/wanted of=/srv/written bs=1M count=1 skip=$n seek=$n conv=notrunc,fsync status=none || exit 1
            echo \"wrote $n\"
        done",
    );
    guest.wait_for("wrote 5\n", MINUTE);
    disturb();
    let output = guest.finish(5 * MINUTE);
    assert_eq!(output.status, 0, "{}", output.text);
    guest.must(
        "echo 3 >/proc/sys/vm/drop_caches; cmp /dev/shm/wanted /srv/written",
        5 * MINUTE,
    );
}

/// qemu-nbd tells nobody when it listens, so it is asked.
fn wait_for_port(port: u16) {
    let started = std::time::Instant::now();
    while std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        assert!(
            started.elapsed() < MINUTE,
            "qemu-nbd does not listen on port {port}"
        );
        std::thread::yield_now();
    }
}
