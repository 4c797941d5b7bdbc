//! What is read and written.

use std::fs;
use std::os::unix::fs::symlink;

use smb::{Access, Encryption};

use crate::support::{Setup, can_serve};

/// Bytes that no two places have in common.
fn bytes(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn what_is_written_is_read_again() {
    if !can_serve() {
        return;
    }
    let setup = Setup::start(Encryption::Require);
    let share = setup.share("disks", 1, Access::ReadWrite);
    let folder = share.path.clone();
    let user = setup.add(share);
    let content = bytes(20_000_001);
    let here = setup.folder("here");
    fs::write(here.join("up"), &content).unwrap();
    fs::write(folder.join("disk.vhdx"), &content[..9_999_999]).unwrap();
    let commands = format!(
        "lcd {}; put up; get up down; get disk.vhdx; mkdir sub; rename up sub\\moved; ls sub\\*",
        here.display()
    );
    let listed = setup.client("disks", &user, &commands).good();
    assert!(listed.contains("moved"), "{listed}");
    assert!(fs::read(folder.join("sub/moved")).unwrap() == content);
    assert!(fs::read(here.join("down")).unwrap() == content);
    assert!(fs::read(here.join("disk.vhdx")).unwrap() == content[..9_999_999]);
}

#[test]
fn a_read_only_share_is_not_written() {
    if !can_serve() {
        return;
    }
    let setup = Setup::start(Encryption::Allow);
    let share = setup.share("point", 1, Access::ReadOnly);
    let folder = share.path.clone();
    fs::write(folder.join("file"), b"kept").unwrap();
    let user = setup.add(share);
    for commands in [
        "put /etc/hostname new",
        "rm file",
        "mkdir sub",
        "rename file other",
    ] {
        setup.client("point", &user, commands).refused("NT_STATUS_");
    }
    assert_eq!(fs::read(folder.join("file")).unwrap(), b"kept");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
}

#[test]
fn no_link_leads_out_of_a_share() {
    if !can_serve() {
        return;
    }
    let setup = Setup::start(Encryption::Allow);
    for (number, access) in (1..).zip([Access::ReadOnly, Access::ReadWrite]) {
        let share = setup.share(&format!("share{number}"), number, access);
        let (name, folder) = (share.name.to_string(), share.path.clone());
        fs::create_dir(folder.join("etc")).unwrap();
        fs::write(folder.join("etc/hostname"), b"guest").unwrap();
        symlink("/etc", folder.join("absolute")).unwrap();
        symlink("../../../../../../etc", folder.join("upwards")).unwrap();
        symlink("/etc/hostname", folder.join("file")).unwrap();
        symlink("etc", folder.join("inside")).unwrap();
        let user = setup.add(share);
        for commands in [
            "ls absolute\\*",
            "ls upwards\\*",
            "get file /dev/null",
            "get absolute\\hostname /dev/null",
        ] {
            setup.client(&name, &user, commands).refused("NT_STATUS_");
        }
        let inside = setup.client(&name, &user, "get inside\\hostname /dev/null");
        match access {
            Access::ReadOnly => drop(inside.good()),
            Access::ReadWrite => inside.refused("NT_STATUS_"),
        }
    }
}

#[test]
fn earlier_versions_are_listed_and_read() {
    if !can_serve() {
        return;
    }
    let setup = Setup::start(Encryption::Allow);
    let mut share = setup.share("point", 1, Access::ReadOnly);
    share.earlier = Some(".snapshots");
    let folder = share.path.clone();
    let times = ["@GMT-2026.11.19-10.00.00", "@GMT-2026.11.20-23.59.59"];
    for (time, content) in [("", "third"), (times[0], "first"), (times[1], "second")] {
        let top = match time {
            "" => folder.clone(),
            time => folder.join(".snapshots").join(time),
        };
        fs::create_dir_all(top.join("etc")).unwrap();
        fs::write(top.join("etc/file"), content).unwrap();
    }
    fs::write(
        folder.join(".snapshots").join(times[0]).join("gone"),
        b"lost",
    )
    .unwrap();
    let user = setup.add(share);
    let told = setup.client("point", &user, "allinfo etc/file").good();
    for time in times {
        assert!(told.contains(time), "{told}");
    }
    let here = setup.folder("here");
    let commands = format!(
        "lcd {}; get etc\\file now; get {}\\etc\\file one; get {}\\etc\\file two; get {}\\gone gone",
        here.display(),
        times[0],
        times[1],
        times[0]
    );
    setup.client("point", &user, &commands).good();
    let read = |name: &str| fs::read_to_string(here.join(name)).unwrap();
    assert_eq!(read("now"), "third");
    assert_eq!(read("one"), "first");
    assert_eq!(read("two"), "second");
    assert_eq!(read("gone"), "lost");
}
