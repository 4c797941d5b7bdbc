//! The tree's words in the kernel's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use export::{Attributes, ExportError, FileKind, SpecialFile, TimeChange, Timestamp};
use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

use crate::numbers::Numbers;

/// Attributes of an object for the kernel.
pub(crate) fn attributes(
    numbers: Numbers,
    attributes: &Attributes,
) -> Result<FileAttr, ExportError> {
    Ok(FileAttr {
        ino: numbers.inode(attributes.file)?,
        size: attributes.size_bytes,
        blocks: attributes.used_bytes.div_ceil(512),
        atime: time(attributes.accessed),
        mtime: time(attributes.modified),
        ctime: time(attributes.changed),
        crtime: UNIX_EPOCH,
        kind: kind(attributes.kind),
        perm: u16::try_from(attributes.mode & MODE_MASK).unwrap_or(0),
        nlink: attributes.links,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    })
}

/// What a file without content really is.
pub(crate) fn make_special(answer: &mut FileAttr, special: SpecialFile) {
    (answer.kind, answer.rdev) = match special {
        SpecialFile::CharacterDevice { major, minor } => {
            (FileType::CharDevice, device(major, minor))
        }
        SpecialFile::BlockDevice { major, minor } => (FileType::BlockDevice, device(major, minor)),
        SpecialFile::Fifo => (FileType::NamedPipe, 0),
        SpecialFile::Socket => (FileType::Socket, 0),
    };
}

/// A device's number in 32 bits, as the kernel has it (`new_encode_dev`): 12 bits of major, 20 of minor.
fn device(major: u32, minor: u32) -> u32 {
    minor & 0xFF | (major & 0xFFF) << 8 | (minor & 0xF_FF00) << 12
}

/// The answer that says "no such name", which the kernel may keep as it keeps a name.
pub(crate) fn nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// How a caller wants a time to be set. A tree has no time before 1970, which becomes its first moment.
pub(crate) fn time_change(change: TimeOrNow) -> TimeChange {
    match change {
        TimeOrNow::Now => TimeChange::Now,
        TimeOrNow::SpecificTime(moment) => {
            let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
            TimeChange::To(Timestamp {
                seconds: since.as_secs(),
                nanoseconds: since.subsec_nanos(),
            })
        }
    }
}

fn kind(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
    }
}

/// A moment that the kernel cannot hold becomes the last that it can.
fn time(moment: Timestamp) -> SystemTime {
    let last = Duration::from_secs(i64::MAX.unsigned_abs());
    let nanoseconds = moment.nanoseconds.min(999_999_999);
    let since = Duration::new(moment.seconds, nanoseconds).min(last);
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}

pub(crate) const MODE_MASK: u32 = 0o7777;
pub(crate) const BLOCK_BYTES: u32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_outside_of_what_is_known_are_bent_to_its_ends() {
        let far = Timestamp {
            seconds: u64::MAX,
            nanoseconds: u32::MAX,
        };
        let last = UNIX_EPOCH + Duration::from_secs(i64::MAX.unsigned_abs());
        assert_eq!(time(far), last);
        let before = UNIX_EPOCH - Duration::from_secs(5);
        let change = time_change(TimeOrNow::SpecificTime(before));
        assert_eq!(change, TimeChange::To(Timestamp::default()));
        let then = UNIX_EPOCH + Duration::new(7, 9);
        let moment = Timestamp {
            seconds: 7,
            nanoseconds: 9,
        };
        assert_eq!(
            time_change(TimeOrNow::SpecificTime(then)),
            TimeChange::To(moment)
        );
        assert_eq!(time(moment), then);
    }
}
