//! A tree of files, as every file protocol sees it.

use bytes::Bytes;

use crate::{Durability, ExportError, Segments};

/// A tree of files and folders.
///
/// Objects are named by a [`FileId`] that never changes, survives a restart, and is not used again for another
/// object. The promises about answered and stable writes are those of [`BlockExport`](crate::BlockExport).
/// Methods with a body may be left out by trees that cannot do them.
pub trait FileExport: Send + Sync + 'static {
    /// The folder at the top.
    fn root(&self) -> FileId;

    /// Space and counts of the store behind the tree, true at the moment of the call.
    fn statistics(&self) -> Result<Statistics, ExportError>;

    /// Attributes of an object. Never waits for bulk data, so that a slow read cannot delay it.
    fn attributes(&self, file: FileId) -> Result<Attributes, ExportError>;

    /// Changes the attributes that are given; a new size cuts or extends with zeroes.
    fn set_attributes(
        &self,
        caller: &Caller,
        file: FileId,
        change: &SetAttributes,
    ) -> Result<Attributes, ExportError> {
        let _ = (caller, file, change);
        Err(ExportError::ReadOnly)
    }

    /// Finds `name` in a folder. `.` and `..` are found too; `..` of the root is the root.
    fn lookup(&self, directory: FileId, name: &[u8]) -> Result<FileId, ExportError>;

    /// Reads up to `length` bytes; fewer only at the end of the file.
    fn read(&self, file: FileId, offset: u64, length: u32) -> Result<FileRead, ExportError>;

    /// Reads if memory alone can answer; `None` says that [`read`](FileExport::read) would have to wait.
    fn read_cached(
        &self,
        file: FileId,
        offset: u64,
        length: u32,
    ) -> Option<Result<FileRead, ExportError>> {
        let _ = (file, offset, length);
        None
    }

    /// Writes the pieces of `data` one after the other at `offset`, growing the file if it may grow.
    fn write(
        &self,
        file: FileId,
        offset: u64,
        data: &[Bytes],
        durability: Durability,
    ) -> Result<Written, ExportError> {
        let _ = (file, offset, data, durability);
        Err(ExportError::ReadOnly)
    }

    /// Writes if that takes microseconds; `None` says that it might wait and that nothing was done.
    fn try_write(
        &self,
        file: FileId,
        offset: u64,
        data: &[Bytes],
    ) -> Option<Result<Written, ExportError>> {
        let _ = (file, offset, data);
        None
    }

    /// Returns when every write to the file that was answered before the call is on stable storage.
    fn commit(&self, file: FileId) -> Result<Attributes, ExportError> {
        self.attributes(file)
    }

    /// Entries of a folder after `cookie` (0 starts), in an order in which an entry that is neither made nor removed
    /// meanwhile comes exactly once. `.` and `..` are not among them. At most `limit`; fewer only at the end. An object
    /// that is damaged may be listed as an empty file of mode 0; [`attributes`](FileExport::attributes) tells of the damage.
    fn list(
        &self,
        directory: FileId,
        cookie: u64,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ExportError>;

    /// Makes a file.
    fn create(
        &self,
        caller: &Caller,
        directory: FileId,
        name: &[u8],
        mode: CreateMode,
        attributes: &SetAttributes,
    ) -> Result<Created, ExportError> {
        let _ = (caller, directory, name, mode, attributes);
        Err(ExportError::ReadOnly)
    }

    /// Makes a folder.
    fn create_directory(
        &self,
        caller: &Caller,
        directory: FileId,
        name: &[u8],
        attributes: &SetAttributes,
    ) -> Result<Created, ExportError> {
        let _ = (caller, directory, name, attributes);
        Err(ExportError::ReadOnly)
    }

    /// Makes a symbolic link that holds `target`.
    fn create_symlink(
        &self,
        caller: &Caller,
        directory: FileId,
        name: &[u8],
        target: &[u8],
        attributes: &SetAttributes,
    ) -> Result<Created, ExportError> {
        let _ = (caller, directory, name, target, attributes);
        Err(ExportError::NotSupported)
    }

    /// What a symbolic link holds.
    fn read_symlink(&self, file: FileId) -> Result<Vec<u8>, ExportError> {
        let _ = file;
        Err(ExportError::Invalid)
    }

    /// Named values that an object carries besides its content, each name once. Access control lists are among them.
    fn extended_attributes(&self, file: FileId) -> Result<Vec<ExtendedAttribute>, ExportError> {
        let _ = file;
        Ok(Vec::new())
    }

    /// What is known of an object and has no place in its [`Attributes`].
    fn particulars(&self, file: FileId) -> Result<Particulars, ExportError> {
        let _ = file;
        Ok(Particulars::default())
    }

    /// Whether [`link`](Self::link) can be asked for.
    fn has_hard_links(&self) -> bool {
        false
    }

    /// Gives a file a second name.
    fn link(
        &self,
        caller: &Caller,
        file: FileId,
        directory: FileId,
        name: &[u8],
    ) -> Result<(), ExportError> {
        let _ = (caller, file, directory, name);
        Err(ExportError::NotSupported)
    }

    /// Removes a name that is not a folder's.
    fn remove(&self, caller: &Caller, directory: FileId, name: &[u8]) -> Result<(), ExportError> {
        let _ = (caller, directory, name);
        Err(ExportError::ReadOnly)
    }

    /// Removes an empty folder.
    fn remove_directory(
        &self,
        caller: &Caller,
        directory: FileId,
        name: &[u8],
    ) -> Result<(), ExportError> {
        let _ = (caller, directory, name);
        Err(ExportError::ReadOnly)
    }

    /// Moves an object, replacing what has the new name where both are of one kind, in one step.
    fn rename(
        &self,
        caller: &Caller,
        from_directory: FileId,
        from: &[u8],
        to_directory: FileId,
        to: &[u8],
    ) -> Result<(), ExportError> {
        let _ = (caller, from_directory, from, to_directory, to);
        Err(ExportError::ReadOnly)
    }
}

/// Name of an object in a tree, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u64);

/// Who asks, as the peer says. Trust it only as far as the transport allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// User number; 0 is root.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
    /// Further groups.
    pub gids: Vec<u32>,
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A file with bytes.
    File,
    /// A folder.
    Directory,
    /// A symbolic link.
    Symlink,
}

/// Attributes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// The object's own name.
    pub file: FileId,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, without the kind.
    pub mode: u32,
    /// Names that lead to it.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length of the content.
    pub size_bytes: u64,
    /// Space the content takes.
    pub used_bytes: u64,
    /// Last read.
    pub accessed: Timestamp,
    /// Last change of the content. Moves with every write.
    pub modified: Timestamp,
    /// Last change of content or attributes. Moves with every write.
    pub changed: Timestamp,
}

/// A moment since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Whole seconds.
    pub seconds: u64,
    /// The rest, below one thousand million.
    pub nanoseconds: u32,
}

/// A named value of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtendedAttribute {
    /// Its whole name with the part before the dot, as `user.comment`: without NUL.
    pub name: Vec<u8>,
    /// Any bytes.
    pub value: Vec<u8>,
}

/// What not every tree knows of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Particulars {
    /// What a file without content really is. Whoever does not ask sees an empty file, which harms nobody.
    pub special: Option<SpecialFile>,
    /// When it was made.
    pub created: Option<Timestamp>,
}

/// A file that is a way to something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialFile {
    /// A device of characters.
    CharacterDevice {
        /// Kind of device.
        major: u32,
        /// Which of them.
        minor: u32,
    },
    /// A device of blocks.
    BlockDevice {
        /// Kind of device.
        major: u32,
        /// Which of them.
        minor: u32,
    },
    /// A pipe with a name.
    Fifo,
    /// A socket with a name.
    Socket,
}

/// Attributes to change; what is `None` stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttributes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length.
    pub size_bytes: Option<u64>,
    /// Last read.
    pub accessed: Option<TimeChange>,
    /// Last change of the content.
    pub modified: Option<TimeChange>,
}

/// How to set a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeChange {
    /// To the server's now.
    Now,
    /// To this.
    To(Timestamp),
}

/// What to do if the name of a new file is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateMode {
    /// Use the file that is there, and give it the size asked for, if one is.
    Unchecked,
    /// Refuse.
    Guarded,
    /// Use the file that is there if the same verifier made it, else refuse. The verifier is kept across restarts.
    Exclusive([u8; 8]),
}

/// A new object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Created {
    /// Its name.
    pub file: FileId,
    /// Its attributes.
    pub attributes: Attributes,
}

/// The answer to a read of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRead {
    /// The bytes.
    pub data: Segments,
    /// Whether they reach the end of the file.
    pub end: bool,
    /// Attributes after the read, where they cost nothing.
    pub attributes: Option<Attributes>,
}

/// The answer to a write to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// What holds for the bytes now; may be more than was asked.
    pub durability: Durability,
    /// Attributes after the write.
    pub attributes: Attributes,
}

/// A name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The object.
    pub file: FileId,
    /// Its name here: 1 to 255 bytes, no `/` and no NUL.
    pub name: Vec<u8>,
    /// Where to go on after this entry; not 0, 1 or 2, which servers use for `.` and `..`.
    pub cookie: u64,
    /// Its attributes.
    pub attributes: Attributes,
}

/// Space and counts of the store behind a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statistics {
    /// All space.
    pub total_bytes: u64,
    /// Unused space.
    pub free_bytes: u64,
    /// Unused space the caller may take.
    pub available_bytes: u64,
    /// All objects that fit.
    pub total_files: u64,
    /// Objects that still fit.
    pub free_files: u64,
}
