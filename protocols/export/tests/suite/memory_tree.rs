use std::sync::Arc;

use bytes::Bytes;
use export::{
    Caller, CreateMode, Durability, ExportError, FileExport, MemoryTree, SetAttributes, contract,
};

const ROOT: Caller = Caller {
    uid: 0,
    gid: 0,
    gids: Vec::new(),
};

#[test]
fn keeps_the_contract() {
    contract::file::check(|| {
        let tree = Arc::new(MemoryTree::new());
        let root = tree.root();
        (tree, root)
    });
}

#[test]
fn keeps_the_contract_below_its_root() {
    contract::file::check(|| {
        let tree = Arc::new(MemoryTree::new());
        let plain = SetAttributes::default();
        let folder = tree
            .create_directory(&ROOT, tree.root(), b"d", &plain)
            .unwrap();
        (tree, folder.file)
    });
}

#[test]
fn space_is_counted_and_comes_back() {
    let tree = MemoryTree::with_capacity(256 * 1024);
    let plain = SetAttributes::default();
    let make = |name: &[u8]| {
        tree.create(&ROOT, tree.root(), name, CreateMode::Guarded, &plain)
            .unwrap()
            .file
    };
    let free = || tree.statistics().unwrap().free_bytes;
    let write = |file, offset, length| {
        let data = [Bytes::from(vec![1; length])];
        tree.write(file, offset, &data, Durability::Unstable)
    };
    let file = make(b"f");
    write(file, 0, 200_000).unwrap();
    assert_eq!(free(), 0);
    write(file, 0, 200_000).unwrap();
    assert!(matches!(
        write(file, 1 << 20, 1),
        Err(ExportError::NoSpace { .. })
    ));
    let cut = SetAttributes {
        size_bytes: Some(1),
        ..plain
    };
    tree.set_attributes(&ROOT, file, &cut).unwrap();
    assert_eq!(free(), 192 * 1024);
    tree.remove(&ROOT, tree.root(), b"f").unwrap();
    assert_eq!(free(), 256 * 1024);
    assert!(write(file, 0, 1).is_err(), "a removed file takes no space");
    assert_eq!(free(), 256 * 1024);
}
