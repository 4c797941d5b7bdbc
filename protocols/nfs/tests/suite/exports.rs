//! Which peers get what: MOUNT, the port mapper, address lists, squashing, read-only exports, handles, RPC refusals.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use export::{CreateMode, FileExport, MemoryTree, SetAttributes};
use nfs::client::{Client, ClientError, FileHandle, Identity, exported_paths, mount_path, port_of};
use nfs::{
    AddressList, Export, ExportOptions, HandleKey, Limits, Portmap, Squash, StaticDirectory, Status,
};

use crate::support::{
    Raw, TestServer, exchange, loopback_config, plain_options, tree_with_file, word,
};

fn export(id: u64, path: &str, tree: Arc<dyn FileExport>, options: ExportOptions) -> Export {
    Export {
        id,
        path: path.to_owned(),
        tree,
        options,
    }
}

fn mount_status(result: Result<FileHandle, ClientError>) -> u32 {
    match result {
        Err(ClientError::Mount { status }) => status,
        other => panic!("expected a refused mount, got {other:?}"),
    }
}

fn tree_with_folders() -> Arc<MemoryTree> {
    let tree = tree_with_file(b"content");
    let plain = SetAttributes::default();
    let caller = crate::support::ROOT;
    let folder = tree
        .create_directory(&caller, tree.root(), b"vm", &plain)
        .unwrap()
        .file;
    tree.create_directory(&caller, folder, b"disks", &plain)
        .unwrap();
    tree
}

#[test]
fn mount_finds_exports_and_folders_inside_them() {
    let server = TestServer::with(tree_with_folders());
    let address = server.address();
    let mount = |path: &str| mount_path(address, path, &Identity::root());
    let root = mount("/").unwrap();
    assert_eq!(mount("").unwrap(), root, "QEMU asks for the empty path");
    assert_eq!(mount("//").unwrap(), root);
    let mut client = server.client();
    let disks = client.find("vm/disks").unwrap().handle;
    assert_eq!(mount("/vm/disks/").unwrap(), disks);
    assert_eq!(mount_status(mount("/none")), 2);
    assert_eq!(mount_status(mount("/file")), 20);
    assert_eq!(mount_status(mount("/vm/../vm")), 22);
    assert_eq!(exported_paths(address).unwrap(), ["/"]);
}

#[test]
fn mount_lists_who_mounted_what_and_forgets_on_request() {
    let server = TestServer::with(tree_with_folders());
    drop(server.client());
    let mut stream = server.connect();
    let dump = |stream: &mut _| exchange(stream, &Raw::call(1, 100_005, 3, 2)).unwrap();
    assert_eq!(word(&dump(&mut stream), 6), 1);
    exchange(&mut stream, &Raw::call(2, 100_005, 3, 3).opaque(b"/")).unwrap();
    assert_eq!(word(&dump(&mut stream), 6), 0);
    drop(server.client());
    exchange(&mut stream, &Raw::call(2, 100_005, 3, 4)).unwrap();
    assert_eq!(word(&dump(&mut stream), 6), 0);
    let old = exchange(&mut stream, &Raw::call(3, 100_005, 1, 1).opaque(b"/")).unwrap();
    assert_eq!(
        (word(&old, 6), old.len()),
        (0, 28 + 32),
        "version 1 gives a bare handle"
    );
    assert_eq!(
        word(
            &exchange(&mut stream, &Raw::call(4, 100_005, 3, 9)).unwrap(),
            5
        ),
        3
    );
    assert_eq!(
        word(
            &exchange(&mut stream, &Raw::call(4, 100_005, 2, 0)).unwrap(),
            5
        ),
        2
    );
}

#[test]
fn an_address_list_is_checked_on_every_request() {
    let directory = Arc::new(StaticDirectory::new());
    let tree = tree_with_file(b"content");
    let elsewhere = ExportOptions {
        addresses: AddressList::parse(["10.0.0.0/8"]).unwrap(),
        ..plain_options()
    };
    directory.insert(export(1, "/open", Arc::clone(&tree) as _, plain_options()));
    directory.insert(export(
        2,
        "/closed",
        Arc::clone(&tree) as _,
        elsewhere.clone(),
    ));
    let server = TestServer::of(Arc::clone(&directory), loopback_config(Limits::default()));
    let address = server.address();
    assert_eq!(exported_paths(address).unwrap(), ["/open"]);
    assert_eq!(
        mount_status(mount_path(address, "/closed", &Identity::root())),
        13
    );
    assert_eq!(mount_status(mount_path(address, "/", &Identity::root())), 2);
    let mut client = Client::mount(address, address, "/open", &Identity::root()).unwrap();
    let root = client.root();
    client.getattr(&root).unwrap();
    directory.insert(export(1, "/open", tree, elsewhere));
    assert_eq!(
        client.getattr(&root).unwrap_err().status(),
        Some(Status::Access)
    );
}

#[test]
fn a_handle_of_one_export_is_no_handle_of_another() {
    let directory = Arc::new(StaticDirectory::new());
    for (id, path) in [(1, "/one"), (2, "/two")] {
        directory.insert(export(
            id,
            path,
            tree_with_file(b"content"),
            plain_options(),
        ));
    }
    let server = TestServer::of(directory, loopback_config(Limits::default()));
    let address = server.address();
    let mut client = Client::mount(address, address, "/one", &Identity::root()).unwrap();
    let two = mount_path(address, "/two", &Identity::root()).unwrap();
    let mut forged = client.root().as_bytes().to_vec();
    forged[4..12].copy_from_slice(&two.as_bytes()[4..12]);
    let forged = FileHandle::from_bytes(&forged);
    assert_eq!(
        client.getattr(&forged).unwrap_err().status(),
        Some(Status::BadHandle)
    );
    let root = client.root();
    let plain = SetAttributes::default();
    client
        .create(&root, b"a", CreateMode::Guarded, &plain)
        .unwrap();
    let moved = client.rename(&root, b"a", &two, b"a").unwrap_err();
    assert_eq!(moved.status(), Some(Status::CrossDevice));
}

#[test]
fn handles_hold_through_a_restart_and_the_verifier_changes() {
    let tree = tree_with_file(b"content");
    let first = TestServer::with(Arc::clone(&tree) as _);
    let mut client = first.client();
    let root = client.root();
    let file = client.find("file").unwrap().handle;
    let verifier = client.commit(&file).unwrap();
    drop(first);
    let second = TestServer::with(Arc::clone(&tree) as _);
    let mut client = Client::attach(second.address(), root, &Identity::root()).unwrap();
    assert_eq!(client.read(&file, 0, 100).unwrap().data, b"content");
    assert_ne!(client.commit(&file).unwrap(), verifier);
    let mut other_key = loopback_config(Limits::default());
    other_key.key = HandleKey::new([8; 32]);
    let directory = Arc::new(StaticDirectory::new());
    directory.insert(export(1, "/", tree, plain_options()));
    let third = TestServer::of(directory, other_key);
    let mut client = third.client();
    assert_eq!(
        client.getattr(&file).unwrap_err().status(),
        Some(Status::BadHandle)
    );
}

#[test]
fn squashing_takes_users_their_numbers() {
    let maker = |squash, identity: &Identity| {
        let tree = Arc::new(MemoryTree::new());
        let open = SetAttributes {
            mode: Some(0o777),
            ..SetAttributes::default()
        };
        tree.set_attributes(&crate::support::ROOT, tree.root(), &open)
            .unwrap();
        let options = ExportOptions {
            squash,
            anonymous_uid: 99,
            anonymous_gid: 98,
            ..plain_options()
        };
        let server = TestServer::configured(tree, options, Limits::default());
        let mut client = server.client_as(identity);
        let root = client.root();
        let made = client.create(&root, b"a", CreateMode::Guarded, &SetAttributes::default());
        let attributes = made.unwrap().attributes.unwrap();
        (attributes.uid, attributes.gid)
    };
    let nobody = Identity {
        uid: None,
        ..Identity::root()
    };
    assert_eq!(maker(Squash::None, &Identity::root()), (0, 0));
    assert_eq!(maker(Squash::Root, &Identity::root()), (99, 98));
    assert_eq!(maker(Squash::Root, &Identity::user(5, 0)), (5, 98));
    assert_eq!(maker(Squash::Root, &Identity::user(5, 6)), (5, 6));
    assert_eq!(maker(Squash::All, &Identity::user(5, 6)), (99, 98));
    assert_eq!(maker(Squash::None, &nobody), (99, 98));
}

#[test]
fn a_read_only_export_takes_no_change() {
    let options = ExportOptions {
        read_only: true,
        ..plain_options()
    };
    let server = TestServer::configured(tree_with_file(b"content"), options, Limits::default());
    let mut client = server.client();
    let root = client.root();
    let file = client.find("file").unwrap().handle;
    let plain = SetAttributes::default();
    assert_eq!(client.read(&file, 0, 100).unwrap().data, b"content");
    assert_eq!(client.access(&file, 0x3f).unwrap(), 0x01);
    let refusals = [
        client.write(&file, 0, b"x", false).map(drop),
        client.commit(&file).map(drop),
        client.setattr(&file, &plain, None).map(drop),
        client
            .create(&root, b"a", CreateMode::Guarded, &plain)
            .map(drop),
        client.mkdir(&root, b"a", &plain).map(drop),
        client.symlink(&root, b"a", b"b", &plain).map(drop),
        client.mknod(&root, b"a", 7).map(drop),
        client.remove(&root, b"file").map(drop),
        client.rmdir(&root, b"file").map(drop),
        client.rename(&root, b"file", &root, b"b").map(drop),
        client.link(&file, &root, b"b").map(drop),
    ];
    for refusal in refusals {
        assert_eq!(
            refusal.unwrap_err().status(),
            Some(Status::ReadOnlyFilesystem)
        );
    }
}

#[test]
fn the_port_mapper_answers_over_tcp_and_udp() {
    let mut config = loopback_config(Limits::default());
    config.mount = Some(SocketAddr::new(config.nfs.ip(), 0));
    config.portmap = Portmap::BuiltIn(config.nfs);
    let directory = Arc::new(StaticDirectory::new());
    directory.insert(export(1, "/", tree_with_file(b"content"), plain_options()));
    let server = TestServer::of(directory, config);
    let running = server.server.as_ref().unwrap();
    let portmap = running.portmap_address().unwrap();
    assert_eq!(
        port_of(portmap, 100_003, 3).unwrap(),
        running.nfs_address().port()
    );
    assert_eq!(
        port_of(portmap, 100_005, 3).unwrap(),
        running.mount_address().port()
    );
    assert_ne!(running.nfs_address().port(), running.mount_address().port());
    assert!(matches!(
        port_of(portmap, 100_021, 4),
        Err(ClientError::NotRegistered { .. })
    ));
    let mut client = Client::mount_by_portmap(portmap, "", &Identity::root()).unwrap();
    assert_eq!(
        client.find("file").unwrap().attributes.unwrap().size_bytes,
        7
    );
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let ask = Raw::call(9, 100_000, 2, 3).words(&[100_003, 3, 6, 0]);
    socket.send_to(&ask.0, portmap).unwrap();
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).unwrap();
    assert_eq!((length, word(&answer, 0)), (28, 9));
    assert_eq!(word(&answer, 6), u32::from(running.nfs_address().port()));
    let mut stream = crate::support::connect(portmap);
    let dump = exchange(&mut stream, &Raw::call(1, 100_000, 2, 4)).unwrap();
    assert_eq!(dump.len(), 24 + 5 * 20 + 4, "five mappings");
    let set = Raw::call(1, 100_000, 2, 1).words(&[100_003, 3, 6, 1]);
    assert_eq!(
        word(&exchange(&mut stream, &set).unwrap(), 6),
        0,
        "nobody changes our ports"
    );
}

#[test]
fn calls_that_rpc_must_refuse() {
    let server = TestServer::with(tree_with_file(b"content"));
    let mut stream = server.connect();
    let mut ask = |call: Raw| exchange(&mut stream, &call).unwrap();
    let old_rpc = Raw::default().words(&[1, 0, 3, 100_003, 3, 0]).sys(0, 0);
    let answer = ask(old_rpc);
    assert_eq!([2, 3, 4, 5].map(|at| word(&answer, at)), [1, 0, 2, 2]);
    let answer = ask(Raw::call(1, 100_003, 4, 0));
    assert_eq!([2, 5, 6, 7].map(|at| word(&answer, at)), [0, 2, 3, 3]);
    assert_eq!(
        word(&ask(Raw::call(1, 100_099, 1, 0)), 5),
        1,
        "unknown program"
    );
    assert_eq!(word(&ask(Raw::nfs(1, 22)), 5), 3, "unknown procedure");
    assert_eq!(word(&ask(Raw::nfs(1, 1).words(&[65])), 5), 4, "garbage");
    assert_eq!(
        word(&ask(Raw::nfs(1, 6).opaque(&[0; 32]).words(&[0, 0])), 5),
        4,
        "cut arguments"
    );
    let head = || Raw::default().words(&[1, 0, 2, 100_003, 3, 0]);
    let gss = head().words(&[6, 0, 0, 0]);
    let answer = ask(gss);
    assert_eq!([2, 3, 4].map(|at| word(&answer, at)), [1, 1, 5], "too weak");
    let broken = head().words(&[1, 4, 0, 0, 0]);
    let answer = ask(broken);
    assert_eq!(
        [2, 3, 4].map(|at| word(&answer, at)),
        [1, 1, 1],
        "bad credential"
    );
}
