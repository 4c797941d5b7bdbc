//! The kernel's target with our disks behind it. This machine's kernel need not have one: the daemon runs in a guest.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use support::{Drive, Guest, GuestFiles, Machine, disk_with_daemon, scratch};
use tempfile::TempDir;

const MINUTE: Duration = Duration::from_secs(60);
const TARGET: &str = "/sys/kernel/config/target";

#[test]
fn guest_kernel_serves_a_session_through_its_own_fabrics() {
    let Some((mut guest, _folder)) = boot() else {
        return;
    };
    let view = start_session(&mut guest);
    let backstore = view["disks"][0]["urls"]["tcmu"].as_str().unwrap();
    assert_eq!(backstore, format!("{TARGET}/core/user_0/lab-disk-0"));
    // Two fabrics show one disk: as a SCSI disk of this machine, and over the kernel's own iSCSI.
    show_in_loopback(&mut guest, &view);
    show_over_iscsi(&mut guest, &view);
    let disks = scsi_disks(&mut guest, 2);
    let [local, remote] = disks.as_slice() else {
        panic!("two disks, not {disks:?}");
    };
    check_identity(&mut guest, local, remote);
    guest.must(&format!("cmp /srv/image {local}"), MINUTE);
    for (disk, load) in [
        (
            local,
            "--rw=randwrite --bsrange=4k-256k --iodepth=16 --size=16M",
        ),
        (local, "--rw=write --bs=1M --iodepth=4 --size=16M"),
        (
            remote,
            "--rw=randwrite --bsrange=4k-64k --iodepth=8 --size=8M",
        ),
    ] {
        guest.must(&format!("{} {load}", fio(disk)), 5 * MINUTE);
    }
    check_reservations(&mut guest, local, remote);
    live_through_a_killed_daemon(&mut guest, local);
    guest.must("iscsiadm -m node --logout", MINUTE);
    end_session(&mut guest);
    guest.power_off();
}

/// A guest with the daemon on `/dev/vdb`, and with the modules of the kernel's target.
fn boot() -> Option<(Guest, TempDir)> {
    let files = GuestFiles::find()?;
    let folder = scratch();
    let (own, programs) = (
        folder.path().join("own.raw"),
        folder.path().join("programs.raw"),
    );
    disk_with_daemon(&programs)?;
    files.copy_of_disk(1, &own);
    let drive = |path: &Path| Drive::file(path);
    let mut guest = Machine::new(&files, drive(&own))
        .drive(drive(&programs))
        .start();
    guest.wait_for_login(files.prompt(1));
    guest.log_in();
    guest.must(
        "mkdir -p /programs /etc/target/pr && mount -o ro /dev/vdb /programs
         cat >/usr/local/bin/holdfast <<'END'
#!/bin/sh
export LD_LIBRARY_PATH=/programs/lib HOLDFAST_STATE=/srv/repository/daemon
exec /programs/holdfast \"$@\"
END
         cat >/usr/local/bin/serve <<'END'
#!/bin/sh
# What the unit grants that docs/operations/san.md shows.
rights=-all,+dac_override,+fowner,+net_bind_service
setsid setpriv --bounding-set $rights holdfast serve --config /srv/holdfast.toml >>/srv/log 2>&1 &
for n in $(seq 100); do holdfast recover list >/dev/null 2>&1 && exit; sleep 0.3; done
cat /srv/log
exit 1
END
         chmod 755 /usr/local/bin/holdfast /usr/local/bin/serve
         printf '[repository]\npath = \"/srv/repository\"\n[recovery]\nwarn_below = \"0B\"\n' >/srv/holdfast.toml
         for module in sd_mod sg iscsi_tcp; do modprobe $module || exit 1; done",
        MINUTE,
    );
    Some((guest, folder))
}

/// Backs an image up and starts the session `lab` of it. Before the kernel has what that takes, it is refused with what to
/// do.
fn start_session(guest: &mut Guest) -> Value {
    guest.must(
        "head -c 32M /dev/urandom >/srv/image && holdfast init /srv/repository && serve &&
         holdfast backup image web /srv/image 2>/dev/null",
        3 * MINUTE,
    );
    let start = "holdfast recover start web@1 --name lab --protocol tcmu --json";
    let refused = guest.run(start, MINUTE);
    assert_eq!(refused.status, 1, "{}", refused.text);
    assert!(
        refused.text.contains("run `modprobe target_core_user`"),
        "{}",
        refused.text
    );
    guest.must("modprobe target_core_user", MINUTE);
    let refused = guest.run(start, MINUTE);
    assert!(
        refused.text.contains("run `mount -t configfs"),
        "{}",
        refused.text
    );
    guest.must("mount -t configfs configfs /sys/kernel/config", MINUTE);
    let text = guest.must(start, MINUTE);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The step of a printed command that makes the LUNs: all that follows what targetcli does.
fn lun_step(view: &Value, fabric: &str) -> String {
    let commands = view["attach"].as_array().unwrap();
    let command = commands
        .iter()
        .map(|attach| attach["command"].as_str().unwrap())
        .find(|command| command.contains(&format!("{TARGET}/{fabric}/")))
        .unwrap_or_else(|| panic!("no {fabric} in {view}"));
    let steps = command
        .split("; ")
        .filter(|step| step.starts_with("mkdir "));
    steps.collect::<Vec<_>>().join(" && ")
}

/// What `targetcli /loopback create` does, and the printed step.
fn show_in_loopback(guest: &mut Guest, view: &Value) {
    let step = lun_step(view, "loopback");
    guest.must(
        &format!(
            "modprobe tcm_loop
             group={TARGET}/loopback/naa.5001405000000002/tpgt_1
             mkdir -p $group && echo naa.5001405000000099 >$group/nexus && {step}"
        ),
        MINUTE,
    );
}

/// What `targetcli /iscsi create` does with a portal and without access control, the printed step, and the login.
fn show_over_iscsi(guest: &mut Guest, view: &Value) {
    let step = lun_step(view, "iscsi");
    let name = "iqn.2026-01.holdfast:lab.lio";
    guest.must(
        &format!(
            "modprobe iscsi_target_mod
             group={TARGET}/iscsi/{name}/tpgt_1
             mkdir -p $group/np/127.0.0.1:3261 && echo 1 >$group/attrib/generate_node_acls &&
             echo 0 >$group/attrib/demo_mode_write_protect && echo 0 >$group/attrib/authentication &&
             {step} && echo 1 >$group/enable
             echo InitiatorName=iqn.2026-01.test:guest >/etc/iscsi/initiatorname.iscsi
             sed -i '/^iscsid.startup/d;/noop_out/d' /etc/iscsi/iscsid.conf
             mkdir -p /run/lock/iscsi && iscsid
             node='iscsiadm -m node -T {name} -p 127.0.0.1:3261'
             $node -o new && $node --login"
        ),
        2 * MINUTE,
    );
}

/// The SCSI disks, once there are `count`.
fn scsi_disks(guest: &mut Guest, count: usize) -> Vec<String> {
    let names = guest.must(
        &format!(
            "for n in $(seq 100); do
                 set -- $(ls -d /sys/class/scsi_disk/*/device/block/*)
                 [ $# = {count} ] && break
                 sleep 0.3
             done
             for path; do echo ${{path##*/}}; done"
        ),
        MINUTE,
    );
    names.lines().map(|name| format!("/dev/{name}")).collect()
}

/// The disk's own names are what initiators see, and the same through both fabrics.
fn check_identity(guest: &mut Guest, local: &str, remote: &str) {
    let names = |guest: &mut Guest, disk| guest.must(&format!("sg_vpd -p di {disk}"), MINUTE);
    let (one, two) = (names(guest, local), names(guest, remote));
    assert_eq!(one, two);
    assert!(
        one.contains("0x6024846") && one.contains("vendor id: HOLDFAST"),
        "{one}"
    );
    let capacity = guest.must(&format!("sg_readcap -l {remote}"), MINUTE);
    assert!(capacity.contains("lbpme=1, lbprz=1"), "{capacity}");
    let inquiry = guest.must(&format!("sg_inq {local}"), MINUTE);
    assert!(
        inquiry.contains("RECOVERED DISK") && inquiry.contains("TPGS=0"),
        "{inquiry}"
    );
}

/// Reservations are the kernel's, and hold across its fabrics.
fn check_reservations(guest: &mut Guest, local: &str, remote: &str) {
    let output = guest.must(
        &format!(
            "persist='sg_persist --out {remote}'
             $persist --register --param-sark=abc && $persist --reserve --param-rk=abc --prout-type=1 || exit 1
             dd if=/dev/zero of={local} bs=4k count=1 oflag=direct && exit 1
             $persist --release --param-rk=abc --prout-type=1 && $persist --register --param-rk=abc || exit 1
             dd if=/dev/zero of={local} bs=4k count=1 oflag=direct"
        ),
        MINUTE,
    );
    assert!(output.contains("0 bytes copied"), "{output}");
}

/// A verified load goes on through the end of the daemon and the next start; every write that was answered is there.
fn live_through_a_killed_daemon(guest: &mut Guest, disk: &str) {
    guest.begin(&format!(
        "{} --rw=randwrite --bsrange=4k-64k --iodepth=8 --size=16M --rate=,2m >/dev/shm/fio & load=$!
         sleep 2; kill -9 $(pidof holdfast); echo killed; sleep 2; kill -0 $load && serve && wait $load && echo verified",
        fio(disk)
    ));
    guest.wait_for("killed\n", 2 * MINUTE);
    let output = guest.finish(5 * MINUTE);
    assert_eq!(output.status, 0, "{}", output.text);
    assert!(output.text.ends_with("verified\n"), "{}", output.text);
    // Stopped in good order, I/O waits as well.
    guest.must(
        &format!(
            "kill $(pidof holdfast); for n in $(seq 100); do pidof holdfast >/dev/null || break; sleep 0.3; done
             dd if={disk} of=/dev/null bs=1M count=4 iflag=direct status=none & read=$!
             sleep 1; kill -0 $read && serve && wait $read"
        ),
        2 * MINUTE,
    );
    let errors = guest.run("dmesg | grep -E 'I/O error|ring is broken'", MINUTE);
    assert_eq!(errors.text, "");
}

/// While a fabric shows the disk, the session stays; afterwards nothing of it does, and the restore point is as it was.
fn end_session(guest: &mut Guest) {
    for verb in ["stop", "discard", "seal"] {
        let refused = guest.run(&format!("holdfast recover {verb} lab"), MINUTE);
        assert_eq!(refused.status, 1, "{verb}: {}", refused.text);
        assert!(
            refused.text.contains("/tpgt_1/lun/lun_0"),
            "{verb}: {}",
            refused.text
        );
    }
    guest.must(
        &format!(
            "for link in {TARGET}/*/*/tpgt_1/lun/lun_0/holdfast; do rm $link && rmdir ${{link%/*}} || exit 1; done
             holdfast recover stop lab && [ ! -e {TARGET}/core/user_0 ] &&
             holdfast recover start web@1 --name lab >/dev/null && [ -e {TARGET}/core/user_0/lab-disk-0 ] &&
             holdfast recover discard lab && [ ! -e {TARGET}/core/user_0 ] &&
             holdfast restore image web@1 --disk 0 --to /srv/restored 2>/dev/null && cmp /srv/image /srv/restored"
        ),
        2 * MINUTE,
    );
    let loud = guest.run("grep -E ' WARN | ERROR |panicked' /srv/log", MINUTE);
    assert_eq!(loud.text, "", "the daemon's log");
}

fn fio(disk: &str) -> String {
    format!(
        "fio --minimal --name=load --filename={disk} --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1"
    )
}
