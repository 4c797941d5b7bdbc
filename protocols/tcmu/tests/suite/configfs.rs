//! The kernel's files, where a folder plays them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use export::{BlockingPool, MemoryDisk};
use scsi::UnitOptions;
use tcmu::{Kernel, KernelError, Metrics, ServeError, Server, ServerConfig};
use tempfile::TempDir;

const IDENTITY: [u8; 16] = *b"0123456789abcdef";
const OURS: &str = "holdfast/30313233343536373839616263646566";

fn server(root: &Path) -> Server {
    let pool = Arc::new(BlockingPool::start(1, 1).unwrap());
    Server::new(
        Kernel::at(root),
        ServerConfig::default(),
        pool,
        Metrics::unregistered(),
    )
}

fn serve(root: &Path, name: &str) -> ServeError {
    let disk = MemoryDisk::new(1 << 20).with_identity(IDENTITY);
    server(root)
        .serve(name, Arc::new(disk), UnitOptions::default())
        .unwrap_err()
}

/// A kernel with the backstore `lab` in it.
fn kernel_with_lab(config: &str, size: u64) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    fs::create_dir_all(root.join("sys/module/target_core_user")).unwrap();
    let lab = root.join("sys/kernel/config/target/core/user_3/lab");
    for (file, text) in [
        ("enable", "1\n"),
        ("attrib/dev_config", config),
        ("attrib/dev_size", &size.to_string()),
        ("attrib/hw_block_size", "512\n"),
        ("action/block_dev", "unblocked\n"),
        ("action/reset_ring", ""),
    ] {
        let file = lab.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    folder
}

#[test]
fn what_is_missing_is_said_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let no_module = serve(root, "lab");
    assert!(matches!(
        no_module,
        ServeError::Kernel(KernelError::NoModule)
    ));
    assert!(no_module.to_string().contains("modprobe target_core_user"));
    fs::create_dir_all(root.join("sys/module/target_core_user")).unwrap();
    let not_mounted = serve(root, "lab").to_string();
    assert!(not_mounted.contains("mount -t configfs"), "{not_mounted}");
    fs::create_dir_all(root.join("sys/kernel/config/target/core")).unwrap();
    Kernel::at(root).check().unwrap();
    for name in ["", "a/b", "..", "a b", &"x".repeat(129)] {
        let bad = serve(root, name);
        assert!(
            matches!(bad, ServeError::Kernel(KernelError::BadName(_))),
            "{name}"
        );
    }
}

#[test]
fn a_backstore_of_another_disk_is_left_alone() {
    let folder = kernel_with_lab("holdfast/00000000000000000000000000000000\n", 1 << 20);
    let error = serve(folder.path(), "lab").to_string();
    assert!(
        error.contains("another backstore called lab (holdfast/0000"),
        "{error}"
    );
    let folder = kernel_with_lab("rbd/pool/image\n", 1 << 20);
    serve(folder.path(), "lab");
    server(folder.path()).remove("lab", IDENTITY).unwrap();
    assert!(
        folder
            .path()
            .join("sys/kernel/config/target/core/user_3/lab")
            .exists()
    );
    let folder = kernel_with_lab(OURS, 1 << 21);
    let error = serve(folder.path(), "lab").to_string();
    assert!(
        error.contains("has 2097152 bytes and the disk has 1048576"),
        "{error}"
    );
}

#[test]
fn a_backstore_without_its_device_is_not_served() {
    let folder = kernel_with_lab(OURS, 1 << 20);
    let root = folder.path();
    let other = root.join("sys/class/uio/uio0");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("name"), "tcm-user/3/lab/other\n").unwrap();
    let error = serve(root, "lab").to_string();
    assert!(error.contains("no uio device for backstore lab"), "{error}");
}

#[test]
fn luns_of_every_fabric_are_found_and_keep_a_backstore() {
    let folder = kernel_with_lab(OURS, 1 << 20);
    let root = folder.path();
    let server = server(root);
    assert!(
        server.luns("lab", IDENTITY).unwrap().is_empty()
            && server.luns("other", IDENTITY).unwrap().is_empty()
    );
    let target = root.join("sys/kernel/config/target");
    let mut expected = Vec::new();
    for (group, to) in [
        ("iscsi/iqn.x:a/tpgt_1", "user_3/lab"),
        ("loopback/naa.1/tpgt_1", "user_3/lab"),
        ("loopback/naa.2/tpgt_1", "user_33/lab"),
        ("loopback/naa.3/tpgt_1", "user_3/lab-2"),
    ] {
        let lun = target.join(group).join("lun/lun_0");
        fs::create_dir_all(&lun).unwrap();
        symlink(
            Path::new("../../../../../../target/core").join(to),
            lun.join("0123456789"),
        )
        .unwrap();
        if to == "user_3/lab" {
            expected.push(lun);
        }
    }
    assert_eq!(server.luns("lab", IDENTITY).unwrap(), expected);
    let error = server.remove("lab", IDENTITY).unwrap_err();
    assert!(matches!(&error, KernelError::InUse { luns, .. } if *luns == expected));
    assert!(error.to_string().contains("iscsi/iqn.x:a/tpgt_1/lun/lun_0"));
}
