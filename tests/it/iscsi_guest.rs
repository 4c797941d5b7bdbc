//! The Linux kernel's iSCSI initiator, in a guest.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use export::{BlockingPool, MemoryDisk};
use iscsi::{
    AccessRule, Authentication, ChapAccount, ChapAlgorithm, ChapPolicy, InitiatorPattern, Metrics,
    Portal, Secret, Server, ServerConfig, StaticDirectory,
};
use parking_lot::Mutex;
use scsi::{LunMask, Target, TargetIdentity, TargetPort, UnitOptions};
use support::{Daemon, Drive, Guest, GuestFiles, Machine, scratch};
use tempfile::TempDir;

const MINUTE: Duration = Duration::from_secs(60);
const TARGET: &str = "iqn.2026-01.test:disk";

#[test]
fn guest_kernel_uses_a_disk_with_chap_and_digests() {
    let Some(files) = GuestFiles::find() else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (server, portals) = serve(&runtime, chap());
    let (mut guest, _folder) = boot(&files);
    let portal = format!("10.0.2.2:{}", portals[0].port());
    // Without the secret nobody is told anything.
    let refused = guest.run(
        &format!("iscsiadm -m discovery -t sendtargets -p {portal}"),
        MINUTE,
    );
    assert_ne!(refused.status, 0, "{}", refused.text);
    for (name, value) in [
        ("discovery.sendtargets.auth.authmethod", "CHAP"),
        ("discovery.sendtargets.auth.username", "guest"),
        ("discovery.sendtargets.auth.password", "the guest's secret"),
        ("discovery.sendtargets.auth.username_in", "target"),
        (
            "discovery.sendtargets.auth.password_in",
            "the target's secret",
        ),
        ("node.session.auth.authmethod", "CHAP"),
        ("node.session.auth.username", "guest"),
        ("node.session.auth.password", "the guest's secret"),
        ("node.session.auth.username_in", "target"),
        ("node.session.auth.password_in", "the target's secret"),
        ("node.conn[0].iscsi.HeaderDigest", "CRC32C"),
        ("node.conn[0].iscsi.DataDigest", "CRC32C"),
    ] {
        guest.must(
            &format!("echo \"{name} = {value}\" >>/etc/iscsi/iscsid.conf"),
            MINUTE,
        );
    }
    let found = guest.must(
        &format!("iscsiadm -m discovery -t sendtargets -p {portal}"),
        MINUTE,
    );
    for portal in &portals {
        let line = format!("10.0.2.2:{},", portal.port());
        assert!(found.contains(&line) && found.contains(TARGET), "{found}");
    }
    guest.must(
        &format!("iscsiadm -m node -T {TARGET} -p {portal} --login"),
        MINUTE,
    );
    let shown = guest.must("iscsiadm -m session -P 2", MINUTE);
    for wanted in [
        "HeaderDigest: CRC32C",
        "DataDigest: CRC32C",
        "ImmediateData: Yes",
    ] {
        assert!(shown.contains(wanted), "{wanted} in {shown}");
    }
    let disk = disk_of(&mut guest);
    exercise(&mut guest, &disk);
    guest.must(
        &format!("iscsiadm -m node -T {TARGET} -p {portal} --logout"),
        MINUTE,
    );
    guest.power_off();
    assert!(runtime.block_on(server.shutdown(MINUTE)));
}

#[test]
fn guest_keeps_writing_through_the_other_portal_when_one_is_cut() {
    let Some(files) = GuestFiles::find() else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (server, portals) = serve(&runtime, Authentication::None);
    let relay = Relay::start(portals[0]);
    let (mut guest, _folder) = boot(&files);
    guest.must(
        "echo 'node.session.timeo.replacement_timeout = 3' >>/etc/iscsi/iscsid.conf
         modprobe dm_multipath && modprobe dm_round_robin",
        MINUTE,
    );
    for port in [relay.port, portals[1].port()] {
        log_in(&mut guest, TARGET, port);
    }
    // The map that multipathd would make; it wants a udev, which this guest does without.
    guest.must(
        "for n in $(seq 60); do [ $(ls /sys/class/scsi_disk | wc -l) = 2 ] && break; sleep 1; done
         set -- $(cat /sys/class/scsi_disk/*/device/block/*/dev)
         sectors=$(cat /sys/class/scsi_disk/*/device/block/*/size | head -n 1)
         dmsetup --noudevsync create both --table \
         \"0 $sectors multipath 1 queue_if_no_path 0 2 1 round-robin 0 1 1 $1 1 round-robin 0 1 1 $2 1\" &&
         dmsetup mknodes && [ -b /dev/mapper/both ]",
        2 * MINUTE,
    );
    guest.begin(
        "fio --minimal --name=cut --filename=/dev/mapper/both --size=32M --rw=randwrite --bs=16k --ioengine=libaio \
         --iodepth=8 --direct=1 --rate_iops=200 --verify=crc32c --verify_fatal=1 >/dev/shm/fio & \
         sleep 2; echo begun; wait $! && echo verified",
    );
    guest.wait_for("begun\n", 2 * MINUTE);
    relay.cut();
    let output = guest.finish(10 * MINUTE);
    assert_eq!(output.status, 0, "{}", output.text);
    assert!(output.text.ends_with("verified\n"), "{}", output.text);
    // Of the two paths one has failed.
    let status = guest.must("dmsetup status both", MINUTE);
    assert!(status.contains(" F ") && status.contains(" A "), "{status}");
    guest.pull_the_plug();
    runtime.block_on(server.shutdown(Duration::from_secs(5)));
}

#[test]
fn guest_on_iscsi_lives_through_a_killed_daemon() {
    let Some(files) = GuestFiles::find() else {
        return;
    };
    let folder = scratch();
    let mut daemon = Daemon::start(folder.path());
    assert_eq!(daemon.back_up("guest", &files.disk(1)), "guest@1");
    let url = start_session(&daemon);
    let target = url.split('/').nth(3).unwrap().to_owned();
    let port = daemon.port("iscsi");
    let (mut guest, _own) = boot(&files);
    log_in(&mut guest, &target, port);
    let disk = disk_of(&mut guest);
    guest.must(
        &format!("mkdir /inner && mount {disk} /inner && cat /inner/etc/version-of-the-guest"),
        MINUTE,
    );
    guest.must(
        "dd if=/dev/urandom of=/dev/shm/wanted bs=1M count=48 status=none",
        MINUTE,
    );
    guest.begin(
        "for n in $(seq 0 47); do
            dd if=/dev/shm/wanted of=/inner/written bs=1M count=1 skip=$n seek=$n conv=notrunc,fsync status=none || exit 1
            echo \"wrote $n\"
        done",
    );
    guest.wait_for("wrote 5\n", 2 * MINUTE);
    daemon.kill();
    daemon.serve();
    let output = guest.finish(10 * MINUTE);
    assert_eq!(output.status, 0, "{}", output.text);
    guest.must(
        "umount /inner && echo 3 >/proc/sys/vm/drop_caches",
        2 * MINUTE,
    );
    guest.must(&format!("e2fsck -fn {disk} && mount {disk} /inner && cmp /dev/shm/wanted /inner/written && umount /inner"), 5 * MINUTE);
    guest.must(
        &format!("iscsiadm -m node -T {target} -p 10.0.2.2:{port} --logout"),
        MINUTE,
    );
    guest.power_off();
    daemon.cli(["recover", "discard", "lab"]);
}

#[test]
fn guest_boots_through_the_initiator_of_its_own_kernel() {
    let Some(files) = GuestFiles::find() else {
        return;
    };
    let folder = scratch();
    let initrd = folder.path().join("initrd");
    if files.make_iscsi_initrd(&initrd).is_none() {
        return;
    }
    let daemon = Daemon::start(folder.path());
    assert_eq!(daemon.back_up("guest", &files.disk(2)), "guest@1");
    let url = start_session(&daemon);
    let target = url.split('/').nth(3).unwrap();
    let words = format!("iscsi.target={target} iscsi.port={}", daemon.port("iscsi"));
    for boot in 0..2 {
        let mut guest = Machine::diskless(&files, &initrd, &words).start();
        guest.wait_for_login(files.prompt(2));
        guest.log_in();
        let root = guest.must(
            "findmnt -n -o SOURCE / && readlink /sys/block/sda && ls /dev/vd* 2>&1 || true",
            MINUTE,
        );
        assert!(root.starts_with("/dev/sda\n"), "{root}");
        assert!(root.contains("/session1/target"), "{root}");
        assert!(root.contains("cannot access"), "{root}");
        write_or_compare(&mut guest, boot);
        guest.power_off();
    }
    daemon.cli(["recover", "discard", "lab"]);
}

#[test]
fn guest_boots_from_a_logical_unit() {
    let Some(files) = GuestFiles::find() else {
        return;
    };
    let folder = scratch();
    let daemon = Daemon::start(folder.path());
    assert_eq!(daemon.back_up("guest", &files.disk(2)), "guest@1");
    let url = start_session(&daemon);
    for boot in 0..2 {
        let mut guest = Machine::new(&files, Drive::Url(url.clone())).start();
        guest.wait_for_login(files.prompt(2));
        guest.log_in();
        write_or_compare(&mut guest, boot);
        guest.power_off();
    }
    daemon.cli(["recover", "discard", "lab"]);
}

/// Starts the session `lab` of `guest@1` and gives the URL of its disk.
fn start_session(daemon: &Daemon) -> String {
    let view = daemon.cli([
        "recover",
        "start",
        "guest@1",
        "--protocol",
        "iscsi",
        "--name",
        "lab",
    ]);
    let url = view.pointer("/disks/0/urls/iscsi/0").unwrap();
    url.as_str().unwrap().to_owned()
}

/// At the first boot the guest writes to its disk; at later ones it looks whether that is there.
fn write_or_compare(guest: &mut Guest, boot: u32) {
    if boot == 0 {
        guest.must("dd if=/dev/urandom of=/srv/written bs=1M count=16 conv=fsync status=none; cp /srv/written /srv/written-too; fstrim /; sync", 2 * MINUTE);
    } else {
        guest.must("cmp /srv/written /srv/written-too", MINUTE);
    }
}

/// Serves a disk of 256 MiB through two portals that the guest finds at 10.0.2.2.
fn serve(
    runtime: &tokio::runtime::Runtime,
    authentication: Authentication,
) -> (Server, Vec<SocketAddr>) {
    let port = |relative_id: u16| TargetPort {
        relative_id,
        name: format!("{TARGET},t,{relative_id:#06x}"),
    };
    let target = Target::new(TargetIdentity {
        name: TARGET.to_owned(),
        ports: vec![port(1), port(2)],
    });
    let disk = Arc::new(MemoryDisk::new(256 << 20));
    target.attach(0, disk, UnitOptions::default()).unwrap();
    let directory = Directory {
        inner: StaticDirectory::new(),
        authentication: authentication.clone(),
    };
    let rule = AccessRule {
        initiators: InitiatorPattern::new("iqn.2026-01.test:guest"),
        luns: LunMask::All,
        authentication,
    };
    directory
        .inner
        .add(target, "a disk for the guest", vec![rule]);
    let portal = |group: u16| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        Portal::from_listener(listener, group).shown_as((Ipv4Addr::new(10, 0, 2, 2), port).into())
    };
    let _entered = runtime.enter();
    let server = Server::start(
        ServerConfig::default(),
        vec![portal(1), portal(2)],
        Arc::new(directory),
        Arc::new(BlockingPool::start(2, 256).unwrap()),
        Metrics::unregistered(),
    )
    .unwrap();
    let addresses = server.addresses().to_vec();
    (server, addresses)
}

/// A directory that asks for the same proof before it tells names.
struct Directory {
    inner: StaticDirectory,
    authentication: Authentication,
}

impl iscsi::TargetDirectory for Directory {
    fn list(&self, initiator: &iscsi::Initiator) -> Vec<String> {
        self.inner.list(initiator)
    }
    fn open(
        &self,
        name: &str,
        initiator: &iscsi::Initiator,
    ) -> Result<iscsi::OpenedTarget, iscsi::OpenError> {
        self.inner.open(name, initiator)
    }
    fn discovery(&self, _: &iscsi::Initiator) -> Authentication {
        self.authentication.clone()
    }
}

fn chap() -> Authentication {
    let account = |name: &str, secret: &str| ChapAccount {
        name: name.to_owned(),
        secret: Secret::new(secret.as_bytes()).unwrap(),
    };
    Authentication::Chap(Arc::new(ChapPolicy {
        accounts: vec![account("guest", "the guest's secret")],
        own: Some(account("target", "the target's secret")),
        algorithms: ChapAlgorithm::ALL.to_vec(),
    }))
}

/// A guest on a disk of its own, with the initiator's daemon.
fn boot(files: &GuestFiles) -> (Guest, TempDir) {
    let folder = scratch();
    let disk = folder.path().join("own.raw");
    files.copy_of_disk(1, &disk);
    let mut guest = Machine::new(files, Drive::file(Path::new(&disk))).start();
    guest.wait_for_login(files.prompt(1));
    guest.log_in();
    guest.must(
        "echo InitiatorName=iqn.2026-01.test:guest >/etc/iscsi/initiatorname.iscsi
         sed -i '/^iscsid.startup/d;/noop_out/d' /etc/iscsi/iscsid.conf
         modprobe iscsi_tcp && modprobe sd_mod && mkdir -p /run/lock/iscsi && iscsid",
        MINUTE,
    );
    (guest, folder)
}

/// Logs in to a target at a port of this machine, without discovery.
fn log_in(guest: &mut Guest, target: &str, port: u16) {
    let node = format!("iscsiadm -m node -T {target} -p 10.0.2.2:{port}");
    guest.must(&format!("{node} -o new && {node} --login"), MINUTE);
}

/// The device of the only SCSI disk.
fn disk_of(guest: &mut Guest) -> String {
    let name = guest.must(
        "for n in $(seq 60); do ls /sys/class/scsi_disk/*/device/block 2>/dev/null && break; sleep 1; done",
        MINUTE,
    );
    format!("/dev/{}", name.trim())
}

/// What a file system and a verifying load do.
fn exercise(guest: &mut Guest, disk: &str) {
    guest.must(
        &format!("mkfs.ext4 -q -F {disk} && mkdir -p /inner && mount {disk} /inner"),
        2 * MINUTE,
    );
    for load in [
        "--rw=randwrite --bsrange=4k-64k --ioengine=libaio --iodepth=16 --direct=1 --size=16M",
        "--rw=write --bs=1M --ioengine=libaio --iodepth=4 --direct=1 --size=32M",
        "--rw=write --bs=32k --ioengine=psync --fsync=8 --size=8M",
    ] {
        guest.must(
            &format!("fio --minimal --name=load --directory=/inner --unlink=1 --verify=crc32c --verify_fatal=1 {load}"),
            10 * MINUTE,
        );
    }
    guest.must("fstrim -v /inner && umount /inner", 2 * MINUTE);
    guest.must(&format!("e2fsck -fn {disk}"), 2 * MINUTE);
}

/// Stands between an initiator and a portal until it is cut.
struct Relay {
    port: u16,
    state: Arc<Mutex<RelayState>>,
}

#[derive(Default)]
struct RelayState {
    is_cut: bool,
    streams: Vec<TcpStream>,
}

impl Relay {
    fn start(portal: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(RelayState::default()));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let mut state = shared.lock();
                if state.is_cut {
                    continue;
                }
                let other = TcpStream::connect(portal).unwrap();
                for (from, to) in [(&stream, &other), (&other, &stream)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    thread::spawn(move || pass(from, to));
                }
                state.streams.extend([stream, other]);
            }
        });
        Self { port, state }
    }

    /// Ends what goes through it, and lets nothing through any more.
    fn cut(&self) {
        let mut state = self.state.lock();
        state.is_cut = true;
        for stream in state.streams.drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 65536];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Write));
}
