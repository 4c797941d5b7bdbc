//! The tree as the kernel asks for it: numbers mapped, changes refused where they must be.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use export::{
    Attributes, Caller, CreateMode, Created, Durability, ExportError, ExtendedAttribute,
    FileExport, FileId, FileKind, FileRead, Particulars, SetAttributes,
};
use fuser::{Errno, FileAttr, INodeNo};

use crate::error::{is_fault, status};
use crate::numbers::Numbers;
use crate::{Caching, MountOptions, answers};

/// One tree, as one mount shows it.
pub(crate) struct Filesystem {
    pub(crate) tree: Arc<dyn FileExport>,
    pub(crate) numbers: Numbers,
    pub(crate) caching: Caching,
    access: Access,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    ReadOnly,
    ReadWrite,
}

impl Filesystem {
    pub(crate) fn new(tree: Arc<dyn FileExport>, options: &MountOptions) -> Self {
        Self {
            numbers: Numbers::new(tree.root()),
            tree,
            caching: options.caching,
            access: if options.read_only {
                Access::ReadOnly
            } else {
                Access::ReadWrite
            },
        }
    }

    /// For how long the kernel may believe an answer.
    pub(crate) fn lifetime(&self) -> Duration {
        self.caching.lifetime()
    }

    pub(crate) fn file(&self, inode: INodeNo) -> FileId {
        self.numbers.file(inode)
    }

    /// The number for the kernel. What an operator must know goes to the log here, as the number does not tell it.
    pub(crate) fn errno(&self, asked: &'static str, inode: INodeNo, error: &ExportError) -> Errno {
        if is_fault(error) {
            let file = self.file(inode).0;
            tracing::warn!(asked, file, %error, "a request of the kernel failed");
        }
        status(error)
    }

    pub(crate) fn attributes(&self, inode: INodeNo) -> Result<FileAttr, ExportError> {
        self.answer(&self.tree.attributes(self.file(inode))?)
    }

    pub(crate) fn lookup(&self, parent: INodeNo, name: &[u8]) -> Result<FileAttr, ExportError> {
        let parent = self.file(parent);
        // Who shows the mount further on asks for a file's own number in this way.
        let file = if name == b"." {
            parent
        } else {
            self.tree.lookup(parent, name)?
        };
        self.answer(&self.tree.attributes(file)?)
    }

    /// Reads if memory alone can answer.
    pub(crate) fn read_cached(
        &self,
        inode: INodeNo,
        offset: u64,
        length: u32,
    ) -> Option<Result<FileRead, ExportError>> {
        self.tree.read_cached(self.file(inode), offset, length)
    }

    pub(crate) fn read(
        &self,
        inode: INodeNo,
        offset: u64,
        length: u32,
    ) -> Result<FileRead, ExportError> {
        self.tree.read(self.file(inode), offset, length)
    }

    pub(crate) fn read_symlink(&self, inode: INodeNo) -> Result<Vec<u8>, ExportError> {
        self.tree.read_symlink(self.file(inode))
    }

    pub(crate) fn extended_attributes(
        &self,
        inode: INodeNo,
    ) -> Result<Vec<ExtendedAttribute>, ExportError> {
        self.tree.extended_attributes(self.file(inode))
    }

    pub(crate) fn set_attributes(
        &self,
        caller: &Caller,
        inode: INodeNo,
        change: &SetAttributes,
    ) -> Result<FileAttr, ExportError> {
        if *change == SetAttributes::default() {
            return self.attributes(inode);
        }
        let tree = self.changing()?;
        self.answer(&tree.set_attributes(caller, self.file(inode), change)?)
    }

    /// Writes if that takes microseconds.
    pub(crate) fn try_write(
        &self,
        inode: INodeNo,
        offset: u64,
        data: &Bytes,
        durability: Durability,
    ) -> Option<Result<(), ExportError>> {
        let tree = match self.changing() {
            Ok(tree) => tree,
            Err(error) => return Some(Err(error)),
        };
        if durability == Durability::Stable {
            return None;
        }
        let pieces = std::slice::from_ref(data);
        let written = tree.try_write(self.file(inode), offset, pieces)?;
        Some(written.map(drop))
    }

    pub(crate) fn write(
        &self,
        inode: INodeNo,
        offset: u64,
        data: &Bytes,
        durability: Durability,
    ) -> Result<(), ExportError> {
        let pieces = std::slice::from_ref(data);
        self.changing()?
            .write(self.file(inode), offset, pieces, durability)?;
        Ok(())
    }

    pub(crate) fn commit(&self, inode: INodeNo) -> Result<(), ExportError> {
        self.tree.commit(self.file(inode))?;
        Ok(())
    }

    pub(crate) fn create(
        &self,
        caller: &Caller,
        parent: INodeNo,
        name: &[u8],
        mode: CreateMode,
        attributes: &SetAttributes,
    ) -> Result<FileAttr, ExportError> {
        let tree = self.changing()?;
        self.created(&tree.create(caller, self.file(parent), name, mode, attributes)?)
    }

    pub(crate) fn create_directory(
        &self,
        caller: &Caller,
        parent: INodeNo,
        name: &[u8],
        attributes: &SetAttributes,
    ) -> Result<FileAttr, ExportError> {
        let tree = self.changing()?;
        self.created(&tree.create_directory(caller, self.file(parent), name, attributes)?)
    }

    pub(crate) fn create_symlink(
        &self,
        caller: &Caller,
        parent: INodeNo,
        name: &[u8],
        target: &[u8],
    ) -> Result<FileAttr, ExportError> {
        let (tree, attributes) = (self.changing()?, SetAttributes::default());
        let parent = self.file(parent);
        self.created(&tree.create_symlink(caller, parent, name, target, &attributes)?)
    }

    pub(crate) fn link(
        &self,
        caller: &Caller,
        inode: INodeNo,
        parent: INodeNo,
        name: &[u8],
    ) -> Result<FileAttr, ExportError> {
        self.changing()?
            .link(caller, self.file(inode), self.file(parent), name)?;
        self.attributes(inode)
    }

    pub(crate) fn remove(
        &self,
        caller: &Caller,
        parent: INodeNo,
        name: &[u8],
    ) -> Result<(), ExportError> {
        self.changing()?.remove(caller, self.file(parent), name)
    }

    pub(crate) fn remove_directory(
        &self,
        caller: &Caller,
        parent: INodeNo,
        name: &[u8],
    ) -> Result<(), ExportError> {
        self.changing()?
            .remove_directory(caller, self.file(parent), name)
    }

    pub(crate) fn rename(
        &self,
        caller: &Caller,
        from: (INodeNo, &[u8]),
        to: (INodeNo, &[u8]),
    ) -> Result<(), ExportError> {
        let (from_directory, to_directory) = (self.file(from.0), self.file(to.0));
        self.changing()?
            .rename(caller, from_directory, from.1, to_directory, to.1)
    }

    /// The tree, if it may be changed. The kernel refuses as well, unless root has mounted it anew for writing.
    fn changing(&self) -> Result<&dyn FileExport, ExportError> {
        match self.access {
            Access::ReadOnly => Err(ExportError::ReadOnly),
            Access::ReadWrite => Ok(&*self.tree),
        }
    }

    /// Attributes for the kernel. Only an empty file can be a device, a pipe or a socket.
    pub(crate) fn answer(&self, attributes: &Attributes) -> Result<FileAttr, ExportError> {
        let mut answer = answers::attributes(self.numbers, attributes)?;
        if attributes.kind == FileKind::File
            && attributes.size_bytes == 0
            && let Ok(Particulars {
                special: Some(special),
                ..
            }) = self.tree.particulars(attributes.file)
        {
            answers::make_special(&mut answer, special);
        }
        Ok(answer)
    }

    /// For how long the kernel may believe an entry of a list. A tree lists what is damaged as a file that nobody may read:
    /// the kernel asks for that again, and hears of the damage.
    pub(crate) fn listed_lifetime(&self, attributes: &Attributes) -> Duration {
        match attributes.mode {
            0 => Duration::ZERO,
            _ => self.lifetime(),
        }
    }

    fn created(&self, created: &Created) -> Result<FileAttr, ExportError> {
        self.answer(&created.attributes)
    }
}

impl fmt::Debug for Filesystem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Filesystem")
            .field("numbers", &self.numbers)
            .field("caching", &self.caching)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}
