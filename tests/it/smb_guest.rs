//! The Linux kernel's SMB client, in a guest.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use export::MemoryTree;
use fuse::{Caching, Mount, MountOptions};
use smb::{Access, Encryption, Login, Metrics, MountPoints, Server, Settings, Share};
use support::{Drive, Guest, GuestFiles, Machine, free_port, need, need_root, scratch};

use crate::nfs_guest::failures;

const MINUTE: Duration = Duration::from_secs(60);

/// What a share does not keep (docs/protocols/smb.md).
const NOT_KEPT: &[&str] = &["mode"];

/// Without oplocks the client shows old bytes where a file is both mapped and written, of any server
/// (docs/protocols/smb.md).
const WITHOUT_MAPS: &str = r"printf '[weights]\nmapread = 0\nmapwrite = 0\n' >/dev/shm/fsx
fsx_configuration=/dev/shm/fsx";

#[test]
fn guest_kernel_uses_a_share_over_smb() {
    let Some(files) = GuestFiles::find() else {
        return;
    };
    let (Some(()), Some(())) = (need_root(), need("smbd").map(drop)) else {
        return;
    };
    let folder = scratch();
    let points = MountPoints::prepare(&folder.path().join("smb/mounts")).unwrap();
    let settings = Settings {
        folder: folder.path().join("smb"),
        addresses: vec![Ipv4Addr::LOCALHOST.into()],
        port: free_port(Ipv4Addr::LOCALHOST),
        encryption: Encryption::Require,
        clients: 8,
    };
    let server = Server::start(settings.clone(), Metrics::default()).unwrap();
    let path = points.create("1").unwrap();
    let options = MountOptions {
        read_only: false,
        default_permissions: false,
        caching: Caching::Shared,
        ..MountOptions::default()
    };
    let tree = Arc::new(MemoryTree::with_capacity(2 << 30));
    let mount = Mount::start(tree, &path, &options).unwrap();
    let written = share(1, &path, Access::ReadWrite, None);
    let point = folder.path().join("point");
    make_versions(&point);
    let read = share(2, &point, Access::ReadOnly, Some(".snapshots"));

    let disk = folder.path().join("disk.raw");
    files.copy_of_disk(1, &disk);
    let mut guest = Machine::new(&files, Drive::file(&disk)).start();
    guest.wait_for_login(files.prompt(1));
    guest.log_in();
    guest.must("modprobe cifs", MINUTE);
    attach(&mut guest, &server, written, "");
    let connections = server.connections().unwrap();
    assert_eq!(connections[0].dialect, "SMB3_11");
    assert!(connections[0].encryption.is_some(), "{connections:?}");
    let (failed, output) = failures(&mut guest, WITHOUT_MAPS);
    let said = guest.must("dmesg | grep CIFS", MINUTE);
    let log = fs::read_to_string(settings.folder.join("log/log.smbd")).unwrap();
    assert_eq!(failed, NOT_KEPT, "{output}\nclient: {said}\nserver: {log}");
    guest.must("umount /mnt", MINUTE);

    attach(&mut guest, &server, read.clone(), ",ro");
    let seen = guest.must("cat /mnt/file /mnt/.snapshots/@GMT-*/file", MINUTE);
    assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), ["new", "old"]);
    guest.must("umount /mnt", MINUTE);
    server.remove(&read.name, smb::Fate::Keep).unwrap();
    attach(
        &mut guest,
        &server,
        read,
        &format!(",ro,snapshot={THEN_FOR_LINUX}"),
    );
    assert_eq!(guest.must("cat /mnt/file", MINUTE).trim(), "old");
    guest.must("umount /mnt", MINUTE);
    guest.power_off();
    drop(server);
    drop(mount);
    drop(points);
}

fn share(number: u32, path: &Path, access: Access, earlier: Option<&'static str>) -> Share {
    Share {
        name: format!("shared-{number}").parse().unwrap(),
        path: path.to_owned(),
        comment: String::new(),
        user: format!("holdfast-{number}").parse().unwrap(),
        access,
        earlier,
        allow: vec!["127.0.0.1".parse().unwrap()],
    }
}

/// A file, and what it was.
fn make_versions(folder: &Path) {
    let then = folder.join(".snapshots").join(THEN);
    fs::create_dir_all(&then).unwrap();
    fs::write(then.join("file"), "old\n").unwrap();
    fs::write(folder.join("file"), "new\n").unwrap();
}

const THEN: &str = "@GMT-2026.11.20-08.00.00";
/// The same in units of 100 ns since 1601, which mount.cifs would make of it.
const THEN_FOR_LINUX: u64 = (1_795_161_600 + 11_644_473_600) * 10_000_000;

/// Mounts a new share in /mnt, without the program mount.cifs, whose work is to look names up and to ask for the password.
fn attach(guest: &mut Guest, server: &Server, share: Share, more: &str) {
    let (name, user) = (share.name.clone(), share.user.clone());
    let password = server.add(share, Login::New).unwrap().unwrap();
    let options = format!(
        "ip=10.0.2.2,port={},vers=3.1.1,seal,username={user},password={}{more}",
        server.settings().port,
        password.reveal()
    );
    let command = format!("mount -i -t cifs -o {options} //10.0.2.2/{name} /mnt");
    guest.must(&format!("{command} || {{ dmesg | tail; false; }}"), MINUTE);
}
