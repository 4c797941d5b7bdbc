//! Serves a tree by the crate nfsserve: the comparison engine of `benches/peers.sh`, and nothing else.
//!
//! Why the product does not use it: `docs/design/0003-own-nfs-server.md`. Rough on purpose: one caller (root), no
//! hypervisor's needs met, every write answered as stable because that crate always says so.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use export::{
    Attributes, Caller, CreateMode, Durability, ExportError, FileExport, FileId, SetAttributes,
};
use nfsserve::nfs::{
    fattr3, fileid3, filename3, ftype3, nfspath3, nfsstat3, nfstime3, sattr3, set_mode3, set_size3,
};
use nfsserve::tcp::{NFSTcp, NFSTcpListener};
use nfsserve::vfs::{DirEntry, NFSFileSystem, ReadDirResult, VFSCapabilities};

/// Serves `tree` at `address` until the process ends.
///
/// # Errors
/// If the address is taken.
pub async fn serve(tree: Arc<dyn FileExport>, address: &str) -> std::io::Result<()> {
    NFSTcpListener::bind(address, Adapter { tree })
        .await?
        .handle_forever()
        .await
}

struct Adapter {
    tree: Arc<dyn FileExport>,
}

#[async_trait]
impl NFSFileSystem for Adapter {
    fn capabilities(&self) -> VFSCapabilities {
        VFSCapabilities::ReadWrite
    }

    fn root_dir(&self) -> fileid3 {
        self.tree.root().0
    }

    async fn lookup(&self, directory: fileid3, name: &filename3) -> Result<fileid3, nfsstat3> {
        Ok(self.tree.lookup(FileId(directory), name).map_err(status)?.0)
    }

    async fn getattr(&self, file: fileid3) -> Result<fattr3, nfsstat3> {
        Ok(attributes(
            &self.tree.attributes(FileId(file)).map_err(status)?,
        ))
    }

    async fn setattr(&self, file: fileid3, change: sattr3) -> Result<fattr3, nfsstat3> {
        let changed = self
            .tree
            .set_attributes(&ROOT, FileId(file), &set_attributes(&change));
        Ok(attributes(&changed.map_err(status)?))
    }

    async fn read(
        &self,
        file: fileid3,
        offset: u64,
        count: u32,
    ) -> Result<(Vec<u8>, bool), nfsstat3> {
        let read = self
            .tree
            .read(FileId(file), offset, count.min(1 << 20))
            .map_err(status)?;
        Ok((read.data.to_vec(), read.end))
    }

    async fn write(&self, file: fileid3, offset: u64, data: &[u8]) -> Result<fattr3, nfsstat3> {
        let data = [Bytes::copy_from_slice(data)];
        let written = self
            .tree
            .write(FileId(file), offset, &data, Durability::Stable);
        Ok(attributes(&written.map_err(status)?.attributes))
    }

    async fn create(
        &self,
        directory: fileid3,
        name: &filename3,
        change: sattr3,
    ) -> Result<(fileid3, fattr3), nfsstat3> {
        let (mode, change) = (CreateMode::Unchecked, set_attributes(&change));
        let made = self
            .tree
            .create(&ROOT, FileId(directory), name, mode, &change);
        let made = made.map_err(status)?;
        Ok((made.file.0, attributes(&made.attributes)))
    }

    async fn create_exclusive(
        &self,
        directory: fileid3,
        name: &filename3,
    ) -> Result<fileid3, nfsstat3> {
        let (mode, change) = (CreateMode::Guarded, SetAttributes::default());
        let made = self
            .tree
            .create(&ROOT, FileId(directory), name, mode, &change);
        Ok(made.map_err(status)?.file.0)
    }

    async fn mkdir(
        &self,
        directory: fileid3,
        name: &filename3,
    ) -> Result<(fileid3, fattr3), nfsstat3> {
        let plain = SetAttributes::default();
        let made = self
            .tree
            .create_directory(&ROOT, FileId(directory), name, &plain);
        let made = made.map_err(status)?;
        Ok((made.file.0, attributes(&made.attributes)))
    }

    async fn remove(&self, directory: fileid3, name: &filename3) -> Result<(), nfsstat3> {
        match self.tree.remove(&ROOT, FileId(directory), name) {
            Err(ExportError::IsDirectory) => self
                .tree
                .remove_directory(&ROOT, FileId(directory), name)
                .map_err(status),
            result => result.map_err(status),
        }
    }

    async fn rename(
        &self,
        from_directory: fileid3,
        from: &filename3,
        to_directory: fileid3,
        to: &filename3,
    ) -> Result<(), nfsstat3> {
        let (from_directory, to_directory) = (FileId(from_directory), FileId(to_directory));
        self.tree
            .rename(&ROOT, from_directory, from, to_directory, to)
            .map_err(status)
    }

    async fn readdir(
        &self,
        directory: fileid3,
        start_after: fileid3,
        max_entries: usize,
    ) -> Result<ReadDirResult, nfsstat3> {
        let all = self
            .tree
            .list(FileId(directory), 0, usize::MAX)
            .map_err(status)?;
        let skipped = all.iter().position(|entry| entry.file.0 == start_after);
        let rest = all
            .get(skipped.map_or(0, |at| at + 1)..)
            .unwrap_or_default();
        let entries = rest.iter().take(max_entries).map(|entry| DirEntry {
            fileid: entry.file.0,
            name: entry.name.as_slice().into(),
            attr: attributes(&entry.attributes),
        });
        Ok(ReadDirResult {
            entries: entries.collect(),
            end: rest.len() <= max_entries,
        })
    }

    async fn symlink(
        &self,
        directory: fileid3,
        name: &filename3,
        target: &nfspath3,
        _change: &sattr3,
    ) -> Result<(fileid3, fattr3), nfsstat3> {
        let plain = SetAttributes::default();
        let made = self
            .tree
            .create_symlink(&ROOT, FileId(directory), name, target, &plain);
        let made = made.map_err(status)?;
        Ok((made.file.0, attributes(&made.attributes)))
    }

    async fn readlink(&self, file: fileid3) -> Result<nfspath3, nfsstat3> {
        let target = self.tree.read_symlink(FileId(file)).map_err(status)?;
        Ok(target.as_slice().into())
    }
}

fn attributes(attributes: &Attributes) -> fattr3 {
    let time = |time: export::Timestamp| nfstime3 {
        seconds: u32::try_from(time.seconds).unwrap_or(u32::MAX),
        nseconds: time.nanoseconds,
    };
    fattr3 {
        ftype: match attributes.kind {
            export::FileKind::File => ftype3::NF3REG,
            export::FileKind::Directory => ftype3::NF3DIR,
            export::FileKind::Symlink => ftype3::NF3LNK,
        },
        mode: attributes.mode,
        nlink: attributes.links,
        uid: attributes.uid,
        gid: attributes.gid,
        size: attributes.size_bytes,
        used: attributes.used_bytes,
        fsid: 1,
        fileid: attributes.file.0,
        atime: time(attributes.accessed),
        mtime: time(attributes.modified),
        ctime: time(attributes.changed),
        ..fattr3::default()
    }
}

fn set_attributes(change: &sattr3) -> SetAttributes {
    SetAttributes {
        mode: if let set_mode3::mode(mode) = change.mode {
            Some(mode)
        } else {
            None
        },
        size_bytes: if let set_size3::size(size) = change.size {
            Some(size)
        } else {
            None
        },
        ..SetAttributes::default()
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err takes")]
fn status(error: ExportError) -> nfsstat3 {
    match error {
        ExportError::NotFound => nfsstat3::NFS3ERR_NOENT,
        ExportError::Exists => nfsstat3::NFS3ERR_EXIST,
        ExportError::Stale => nfsstat3::NFS3ERR_STALE,
        ExportError::NotDirectory => nfsstat3::NFS3ERR_NOTDIR,
        ExportError::IsDirectory => nfsstat3::NFS3ERR_ISDIR,
        ExportError::NoSpace { .. } => nfsstat3::NFS3ERR_NOSPC,
        _ => nfsstat3::NFS3ERR_IO,
    }
}

const ROOT: Caller = Caller {
    uid: 0,
    gid: 0,
    gids: Vec::new(),
};
