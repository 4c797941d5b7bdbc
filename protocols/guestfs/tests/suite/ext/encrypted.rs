//! Folders that the kernel encrypts.

use std::fs;
use std::process::Command;

use export::{ExportError, FileKind};
use tempfile::tempdir;

use super::programs::mke2fs;
use crate::image::{Mount, have, tree};

/// Gives the filesystem a key and makes it the policy of a folder (linux/fscrypt.h).
const ENCRYPT: &str = "
import fcntl, os, struct, sys
mount, folder = sys.argv[1:]
key = bytearray(struct.pack('=II32sII32s', 2, 0, b'', 64, 0, b'')) + bytes(range(64))
top = os.open(mount, os.O_RDONLY)
fcntl.ioctl(top, 0xC0506617, key)
policy = struct.pack('=BBBBI16s', 2, 1, 4, 3, 0, bytes(key[8:24]))
inner = os.open(folder, os.O_RDONLY)
fcntl.ioctl(inner, 0x800C6613, bytearray(policy))
";

#[test]
fn what_the_kernel_encrypts_is_refused_file_by_file() {
    if !have("mke2fs") {
        return;
    }
    let home = tempdir().unwrap();
    let image = home.path().join("image");
    mke2fs(&image, "64M", None, &["-t", "ext4", "-O", "encrypt"]);
    let Some(mount) = Mount::new(&image, "ext4", "noatime") else {
        return;
    };
    let folder = mount.path().join("secret");
    fs::create_dir(&folder).unwrap();
    fs::write(mount.path().join("plain"), "for everybody").unwrap();
    let encrypted = Command::new("python3")
        .args(["-c", ENCRYPT])
        .args([mount.path(), &folder])
        .output();
    if !encrypted.is_ok_and(|output| output.status.success()) {
        println!("left out: there is no python3, or the kernel has no fscrypt");
        return;
    }
    fs::write(folder.join("file"), "for nobody").unwrap();
    std::os::unix::fs::symlink("target", folder.join("link")).unwrap();
    let inode = |name: &str| {
        let metadata = fs::symlink_metadata(folder.join(name)).unwrap();
        export::FileId(std::os::unix::fs::MetadataExt::ino(&metadata))
    };
    let (file, link) = (inode("file"), inode("link"));
    drop(mount);
    let tree = tree(&image);
    let find = |name: &[u8]| tree.lookup(tree.root(), name).unwrap();
    assert_eq!(
        tree.read(find(b"plain"), 0, 99).unwrap().data.to_vec(),
        b"for everybody"
    );
    let secret = find(b"secret");
    assert_eq!(tree.attributes(secret).unwrap().kind, FileKind::Directory);
    assert!(
        tree.extended_attributes(secret).unwrap().is_empty(),
        "the policy is not shown"
    );
    assert!(matches!(
        tree.list(secret, 0, 9),
        Err(ExportError::Encrypted)
    ));
    assert!(matches!(
        tree.lookup(secret, b"file"),
        Err(ExportError::Encrypted)
    ));
    assert!(matches!(tree.read(file, 0, 9), Err(ExportError::Encrypted)));
    assert!(matches!(
        tree.read_symlink(link),
        Err(ExportError::Encrypted)
    ));
    assert_eq!(tree.attributes(file).unwrap().size_bytes, 10);
}
