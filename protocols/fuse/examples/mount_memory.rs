//! Mounts a tree in memory for benchmarks and by hand: `mount_memory MOUNT_POINT FILE_MIB ENTRIES immutable|shared`.
//!
//! It has a file `file` of so many MiB that are not zero, a folder `folder` of so many empty files.
//! It ends when somebody unmounts it.
#![forbid(unsafe_code)]

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use export::{Caller, CreateMode, Durability, FileExport, FileId, MemoryTree, SetAttributes};
use fuse::{Caching, Mount, MountOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mount_point, file_mib, entries, caching] = arguments.as_slice() else {
        return Err(
            "usage: mount_memory MOUNT_POINT FILE_MIB FOLDER_ENTRIES immutable|shared".into(),
        );
    };
    let tree = MemoryTree::new();
    let file = add(&tree, tree.root(), "file")?;
    let block: Vec<u8> = (0..1u32 << 20)
        .map(|byte| byte.to_le_bytes()[1] | 1)
        .collect();
    let block = Bytes::from(block);
    for number in 0..file_mib.parse::<u64>()? {
        let pieces = std::slice::from_ref(&block);
        tree.write(file, number << 20, pieces, Durability::Unstable)?;
    }
    let attributes = SetAttributes::default();
    let folder = tree.create_directory(&nobody(), tree.root(), b"folder", &attributes)?;
    for number in 0..entries.parse::<u32>()? {
        add(&tree, folder.file, &format!("entry-{number:06}"))?;
    }
    let immutable = caching == "immutable";
    let options = MountOptions {
        read_only: immutable,
        caching: if immutable {
            Caching::Immutable
        } else {
            Caching::Shared
        },
        ..MountOptions::default()
    };
    Mount::start(Arc::new(tree), mount_point.as_ref(), &options)?.wait()?;
    Ok(())
}

fn add(tree: &MemoryTree, folder: FileId, name: &str) -> Result<FileId, export::ExportError> {
    let attributes = SetAttributes::default();
    let name = name.as_bytes();
    let created = tree.create(&nobody(), folder, name, CreateMode::Guarded, &attributes)?;
    Ok(created.file)
}

fn nobody() -> Caller {
    Caller {
        uid: 0,
        gid: 0,
        gids: Vec::new(),
    }
}
