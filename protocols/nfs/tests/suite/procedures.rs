//! Each procedure: what it does, and each way it refuses.

use std::sync::Arc;

use export::{CreateMode, FileExport, FileKind, MemoryTree, SetAttributes, TimeChange, Timestamp};
use nfs::Status;
use nfs::client::{Client, ClientError, FileHandle, Identity};

use crate::support::{SlowTree, TestServer, tree_with_file};

fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>, expected: Status) {
    match result {
        Err(ClientError::Refused(status)) => assert_eq!(status, expected),
        other => panic!("expected {expected:?}, got {other:?}"),
    }
}

fn plain() -> SetAttributes {
    SetAttributes::default()
}

fn server() -> (TestServer, Client) {
    let server = TestServer::with(Arc::new(MemoryTree::new()));
    let client = server.client();
    (server, client)
}

#[test]
fn null_and_getattr_answer() {
    let (server, mut client) = server();
    client.null().unwrap();
    let root = client.root();
    let attributes = client.getattr(&root).unwrap();
    assert_eq!(
        (attributes.kind, attributes.links),
        (FileKind::Directory, 2)
    );
    refused(
        client.getattr(&FileHandle::from_bytes(&[1; 32])),
        Status::BadHandle,
    );
    refused(
        client.getattr(&FileHandle::from_bytes(b"short")),
        Status::BadHandle,
    );
    server.directory.remove(1);
    refused(client.getattr(&root), Status::Stale);
}

#[test]
fn a_removed_file_is_stale() {
    let (_server, mut client) = server();
    let root = client.root();
    let file = client
        .create(&root, b"a", CreateMode::Guarded, &plain())
        .unwrap()
        .handle;
    client.remove(&root, b"a").unwrap();
    refused(client.getattr(&file), Status::Stale);
    refused(client.read(&file, 0, 1), Status::Stale);
    refused(client.write(&file, 0, b"x", false), Status::Stale);
    refused(client.commit(&file), Status::Stale);
}

#[test]
fn setattr_changes_what_is_given_and_keeps_the_guard() {
    let (_server, mut client) = server();
    let root = client.root();
    let file = client
        .create(&root, b"a", CreateMode::Guarded, &plain())
        .unwrap();
    let before = file.attributes.unwrap();
    let to = Timestamp {
        seconds: 77,
        nanoseconds: 5,
    };
    let change = SetAttributes {
        mode: Some(0o600),
        uid: Some(5),
        gid: Some(6),
        size_bytes: Some(1000),
        accessed: Some(TimeChange::Now),
        modified: Some(TimeChange::To(to)),
    };
    let changed = client
        .setattr(&file.handle, &change, Some(before.changed))
        .unwrap();
    assert_eq!(changed.changed_before, Some(before.changed), "wcc data");
    let after = changed.after.unwrap();
    assert_eq!(
        (after.mode, after.uid, after.gid, after.size_bytes),
        (0o600, 5, 6, 1000)
    );
    assert_eq!(after.modified, to);
    assert!(after.changed > before.changed);
    refused(
        client.setattr(&file.handle, &plain(), Some(before.changed)),
        Status::NotSync,
    );
    let cut = SetAttributes {
        size_bytes: Some(1),
        ..plain()
    };
    refused(client.setattr(&root, &cut, None), Status::IsDirectory);
    let huge = SetAttributes {
        size_bytes: Some(u64::MAX),
        ..plain()
    };
    refused(
        client.setattr(&file.handle, &huge, None),
        Status::FileTooBig,
    );
}

#[test]
fn lookup_finds_names_and_dots() {
    let (_server, mut client) = server();
    let root = client.root();
    let folder = client.mkdir(&root, b"d", &plain()).unwrap();
    assert_eq!(client.lookup(&root, b"d").unwrap().handle, folder.handle);
    assert_eq!(client.lookup(&folder.handle, b"..").unwrap().handle, root);
    assert_eq!(client.lookup(&root, b"..").unwrap().handle, root);
    assert_eq!(client.lookup(&root, b".").unwrap().handle, root);
    refused(client.lookup(&root, b"x"), Status::NoEntry);
    refused(client.lookup(&root, &[b'x'; 256]), Status::NameTooLong);
    let file = client
        .create(&root, b"f", CreateMode::Guarded, &plain())
        .unwrap()
        .handle;
    refused(client.lookup(&file, b"x"), Status::NotDirectory);
}

#[test]
fn read_fills_its_count_up_to_the_end() {
    let content: Vec<u8> = (0..200_001_u32)
        .map(|number| (number % 251) as u8)
        .collect();
    let server = TestServer::with(tree_with_file(&content));
    let mut client = server.client();
    let file = client.find("file").unwrap().handle;
    for (offset, count) in [
        (0, 1),
        (0, 200_001),
        (0, 1 << 20),
        (65_535, 2),
        (65_536, 65_537),
        (199_999, 5),
        (3, 0),
    ] {
        let answer = client.read(&file, offset, count).unwrap();
        let start = usize::try_from(offset).unwrap();
        let end = (start + usize::try_from(count).unwrap()).min(content.len());
        assert_eq!(answer.data, content[start..end], "{offset} {count}");
        assert_eq!(answer.end, end == content.len(), "{offset} {count}");
        assert_eq!(answer.attributes.unwrap().size_bytes, 200_001);
    }
    for offset in [200_001, 1 << 40, i64::MAX as u64] {
        let answer = client.read(&file, offset, 10).unwrap();
        assert!(answer.data.is_empty() && answer.end, "{offset}");
    }
    refused(client.read(&file, u64::MAX, 10), Status::Invalid);
    let root = client.root();
    refused(client.read(&root, 0, 10), Status::IsDirectory);
}

#[test]
fn write_takes_all_and_says_how_stable_it_is() {
    let (_server, mut client) = server();
    let root = client.root();
    let file = client
        .create(&root, b"a", CreateMode::Guarded, &plain())
        .unwrap()
        .handle;
    let unstable = client.write(&file, 3, b"abcdef", false).unwrap();
    assert_eq!((unstable.count, unstable.stable), (6, false));
    let stable = client.write(&file, 100_000, &[7; 70_000], true).unwrap();
    assert_eq!(
        (stable.count, stable.stable, stable.verifier),
        (70_000, true, unstable.verifier)
    );
    assert!(stable.attributes.unwrap().modified > unstable.attributes.unwrap().modified);
    assert_eq!(client.commit(&file).unwrap(), unstable.verifier);
    let all = client.read(&file, 0, 1 << 20).unwrap().data;
    assert_eq!(all.len(), 170_000);
    assert_eq!(
        (&all[..10], all[99_999], all[100_000]),
        (&b"\0\0\0abcdef\0"[..], 0, 7)
    );
    let largest = vec![1; 1 << 20];
    assert_eq!(
        client.write(&file, 0, &largest, false).unwrap().count,
        1 << 20
    );
    refused(
        client.write(&file, i64::MAX as u64, b"ab", false),
        Status::FileTooBig,
    );
    refused(client.write(&root, 0, b"ab", false), Status::IsDirectory);
}

#[test]
fn writes_beyond_the_space_are_refused_whole() {
    let server = TestServer::with(Arc::new(MemoryTree::with_capacity(256 * 1024)));
    let mut client = server.client();
    let root = client.root();
    let file = client
        .create(&root, b"a", CreateMode::Guarded, &plain())
        .unwrap()
        .handle;
    refused(
        client.write(&file, 0, &[1; 300_000], false),
        Status::NoSpace,
    );
    assert_eq!(client.getattr(&file).unwrap().size_bytes, 0);
    client.write(&file, 0, &[1; 200_000], false).unwrap();
    let space = client.fsstat(&root).unwrap().statistics;
    assert_eq!((space.total_bytes, space.free_bytes), (256 * 1024, 0));
    assert!(space.free_files > 0);
}

#[test]
fn create_in_its_three_modes() {
    let (_server, mut client) = server();
    let root = client.root();
    let mode = SetAttributes {
        mode: Some(0o640),
        ..plain()
    };
    let first = client
        .create(&root, b"a", CreateMode::Unchecked, &mode)
        .unwrap();
    assert_eq!(first.attributes.unwrap().mode, 0o640);
    client.write(&first.handle, 0, b"abc", false).unwrap();
    let other = SetAttributes {
        mode: Some(0o777),
        size_bytes: Some(1),
        ..plain()
    };
    let again = client
        .create(&root, b"a", CreateMode::Unchecked, &other)
        .unwrap();
    assert_eq!(again.handle, first.handle);
    let attributes = again.attributes.unwrap();
    assert_eq!(
        (attributes.size_bytes, attributes.mode),
        (1, 0o640),
        "cut, mode kept"
    );
    refused(
        client.create(&root, b"a", CreateMode::Guarded, &plain()),
        Status::Exist,
    );
    let exclusive = CreateMode::Exclusive(*b"verifier");
    let made = client.create(&root, b"x", exclusive, &plain()).unwrap();
    let retried = client.create(&root, b"x", exclusive, &plain()).unwrap();
    assert_eq!(
        made.handle, retried.handle,
        "a repeated exclusive create is the same one"
    );
    let foreign = CreateMode::Exclusive(*b"another!");
    refused(client.create(&root, b"x", foreign, &plain()), Status::Exist);
    for (name, expected) in [
        (&b""[..], Status::Invalid),
        (b"a/b", Status::Invalid),
        (b"..", Status::Exist),
        (&[b'n'; 256], Status::NameTooLong),
    ] {
        refused(
            client.create(&root, name, CreateMode::Guarded, &plain()),
            expected,
        );
    }
    assert!(
        client
            .create(&root, &[b'n'; 255], CreateMode::Guarded, &plain())
            .is_ok()
    );
    refused(
        client.create(&first.handle, b"y", CreateMode::Guarded, &plain()),
        Status::NotDirectory,
    );
}

#[test]
fn folders_links_and_their_removal() {
    let (_server, mut client) = server();
    let root = client.root();
    let folder = client.mkdir(&root, b"d", &plain()).unwrap().handle;
    refused(client.mkdir(&root, b"d", &plain()), Status::Exist);
    let link = client
        .symlink(&folder, b"l", b"../target", &plain())
        .unwrap()
        .handle;
    assert_eq!(client.readlink(&link).unwrap(), b"../target");
    refused(client.readlink(&folder), Status::Invalid);
    refused(client.mknod(&root, b"pipe", 7), Status::NotSupported);
    refused(client.mknod(&root, b"file", 1), Status::BadType);
    let file = client
        .create(&folder, b"f", CreateMode::Guarded, &plain())
        .unwrap()
        .handle;
    client.link(&file, &root, b"second").unwrap();
    assert_eq!(client.getattr(&file).unwrap().links, 2);
    refused(client.link(&folder, &root, b"third"), Status::IsDirectory);
    refused(client.link(&file, &root, b"second"), Status::Exist);
    refused(client.rmdir(&root, b"d"), Status::NotEmpty);
    refused(client.rmdir(&folder, b"f"), Status::NotDirectory);
    refused(client.remove(&root, b"d"), Status::IsDirectory);
    refused(client.remove(&root, b"none"), Status::NoEntry);
    let before = client.getattr(&folder).unwrap();
    let changed = client.remove(&folder, b"f").unwrap();
    assert_eq!(changed.changed_before, Some(before.changed));
    assert!(changed.after.unwrap().changed > before.changed);
    assert_eq!(client.getattr(&file).unwrap().links, 1);
    client.remove(&folder, b"l").unwrap();
    client.rmdir(&root, b"d").unwrap();
    refused(client.getattr(&folder), Status::Stale);
}

#[test]
fn rename_replaces_and_refuses() {
    let (_server, mut client) = server();
    let root = client.root();
    let one = client.mkdir(&root, b"one", &plain()).unwrap().handle;
    let two = client.mkdir(&root, b"two", &plain()).unwrap().handle;
    let file = client
        .create(&one, b"f", CreateMode::Guarded, &plain())
        .unwrap()
        .handle;
    let old = client
        .create(&two, b"g", CreateMode::Guarded, &plain())
        .unwrap()
        .handle;
    let (from, to) = client.rename(&one, b"f", &two, b"g").unwrap();
    assert!(from.after.is_some() && to.changed_before.is_some());
    assert_eq!(client.lookup(&two, b"g").unwrap().handle, file);
    refused(client.getattr(&old), Status::Stale);
    refused(client.rename(&one, b"f", &two, b"h"), Status::NoEntry);
    refused(
        client.rename(&root, b"one", &one, b"inside"),
        Status::Invalid,
    );
    refused(
        client.rename(&root, b"one", &root, b"two"),
        Status::NotEmpty,
    );
    refused(
        client.rename(&root, b"one", &two, b"g"),
        Status::NotDirectory,
    );
    refused(
        client.rename(&two, b"g", &root, b"one"),
        Status::IsDirectory,
    );
    client.rename(&two, b"g", &two, b"g").unwrap();
    client.rename(&root, b"one", &two, b"moved").unwrap();
    assert_eq!(client.lookup(&one, b"..").unwrap().handle, two);
}

#[test]
fn listings_of_every_page_size_show_every_name_once() {
    let (_server, mut client) = server();
    let root = client.root();
    let names: Vec<String> = (0..300)
        .map(|number| format!("name-{number:0width$}", width = number % 90 + 1))
        .collect();
    for name in &names {
        client
            .create(&root, name.as_bytes(), CreateMode::Guarded, &plain())
            .unwrap();
    }
    let mut expected: Vec<Vec<u8>> = names.iter().map(|name| name.clone().into_bytes()).collect();
    expected.extend([b".".to_vec(), b"..".to_vec()]);
    expected.sort();
    for (count, plus) in [
        (512, false),
        (4096, false),
        (1 << 20, false),
        (512, true),
        (65_536, true),
    ] {
        let (mut seen, mut cookie, mut verifier) = (Vec::new(), 0, [0; 8]);
        loop {
            let page = if plus {
                client.readdirplus(&root, cookie, verifier, count).unwrap()
            } else {
                client.readdir(&root, cookie, verifier, count).unwrap()
            };
            verifier = page.2;
            cookie = page.0.last().map_or(cookie, |entry| entry.cookie);
            for entry in page.0 {
                if let Some(found) = &entry.found {
                    assert_eq!(found.attributes.unwrap().file, entry.file);
                }
                assert_eq!(entry.found.is_some(), plus);
                seen.push(entry.name);
            }
            if page.1 {
                break;
            }
        }
        seen.sort();
        assert_eq!(seen, expected, "{count} {plus}");
    }
    refused(client.readdir(&root, 0, [0; 8], 32), Status::TooSmall);
    refused(client.readdir(&root, 17, [1; 8], 4096), Status::BadCookie);
    let file = client.find(&names[0]).unwrap().handle;
    refused(client.readdir(&file, 0, [0; 8], 4096), Status::NotDirectory);
    refused(
        client.readdirplus(&file, 0, [0; 8], 4096),
        Status::NotDirectory,
    );
}

#[test]
fn filesystem_limits_are_true() {
    let (_server, mut client) = server();
    let root = client.root();
    let info = client.fsinfo(&root).unwrap();
    let mib = 1 << 20;
    assert_eq!((info.read_max, info.read_preferred), (mib, mib));
    assert_eq!((info.write_max, info.write_preferred), (mib, mib));
    assert_eq!(info.size_max, i64::MAX as u64);
    assert_eq!(
        info.properties, 0x1b,
        "with hard links, which this tree has"
    );
    let linkless = TestServer::with(Arc::new(SlowTree::new(Arc::new(MemoryTree::new()))));
    let mut other = linkless.client();
    let top = other.root();
    assert_eq!(other.fsinfo(&top).unwrap().properties, 0x1a);
    assert_eq!(client.pathconf(&root).unwrap().name_max, 255);
    let bad = FileHandle::from_bytes(&[0; 64]);
    refused(client.fsinfo(&bad), Status::BadHandle);
    refused(client.fsstat(&bad), Status::BadHandle);
    refused(client.pathconf(&bad), Status::BadHandle);
    refused(client.access(&bad, 1), Status::BadHandle);
}

#[test]
fn users_get_what_the_modes_give_them() {
    let tree = Arc::new(MemoryTree::new());
    let server = TestServer::with(Arc::<MemoryTree>::clone(&tree));
    let mut root_client = server.client();
    let root = root_client.root();
    let mode = SetAttributes {
        mode: Some(0o640),
        uid: Some(10),
        gid: Some(20),
        ..plain()
    };
    let file = root_client
        .create(&root, b"f", CreateMode::Guarded, &mode)
        .unwrap()
        .handle;
    let mut owner = server.client_as(&Identity::user(10, 1));
    let mut group = server.client_as(&Identity::user(11, 20));
    let mut other = server.client_as(&Identity::user(12, 1));
    assert_eq!(owner.access(&file, 0x3f).unwrap(), 0x0d);
    assert_eq!(group.access(&file, 0x3f).unwrap(), 0x01);
    assert_eq!(other.access(&file, 0x3f).unwrap(), 0);
    assert_eq!(root_client.access(&root, 0x3f).unwrap(), 0x1f);
    assert!(owner.write(&file, 0, b"x", false).is_ok());
    refused(group.write(&file, 0, b"x", false), Status::Access);
    assert!(group.read(&file, 0, 1).is_ok());
    refused(other.read(&file, 0, 1), Status::Access);
    refused(
        other.create(&root, b"mine", CreateMode::Guarded, &plain()),
        Status::Access,
    );
    refused(other.remove(&root, b"f"), Status::Access);
    refused(
        group.setattr(
            &file,
            &SetAttributes {
                mode: Some(0),
                ..plain()
            },
            None,
        ),
        Status::Perm,
    );
    let sticky = SetAttributes {
        mode: Some(0o1777),
        ..plain()
    };
    root_client.setattr(&root, &sticky, None).unwrap();
    let mine = other
        .create(&root, b"mine", CreateMode::Guarded, &plain())
        .unwrap();
    assert_eq!(mine.attributes.unwrap().uid, 12);
    refused(group.remove(&root, b"mine"), Status::Perm);
    refused(group.rename(&root, b"mine", &root, b"yours"), Status::Perm);
    let given = SetAttributes {
        uid: Some(10),
        ..plain()
    };
    refused(
        other.create(&root, b"gift", CreateMode::Guarded, &given),
        Status::Perm,
    );
    other.remove(&root, b"mine").unwrap();
    assert_eq!(tree.attributes(tree.root()).unwrap().links, 2);
}
