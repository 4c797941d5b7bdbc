//! Filesystems that Debian's kernel knows.

use crate::reader::VolumeDescription;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    /// What the readers call it.
    content: &'static str,
    /// What the kernel calls it.
    pub(crate) name: &'static str,
    /// Modules that it takes, as far as they are not built in.
    pub(crate) modules: &'static [&'static str],
    /// Ways to mount it, the likeliest first.
    pub(crate) options: &'static [&'static str],
}

impl Kind {
    /// What the kernel may know a volume as.
    pub(crate) fn of(volume: &VolumeDescription) -> Option<Self> {
        let mut all = KINDS.iter();
        all.find(|kind| kind.content == volume.content).copied()
    }

    pub(crate) fn by_name(name: &str) -> Option<Self> {
        KINDS.iter().find(|kind| kind.name == name).copied()
    }

    pub(crate) fn all() -> impl Iterator<Item = Self> {
        KINDS.iter().copied()
    }
}

const fn kind(content: &'static str, name: &'static str, modules: &'static [&'static str]) -> Kind {
    Kind {
        content,
        name,
        modules,
        options: &[""],
    }
}

/// Those for which there is no reader, and those of whose variants the readers refuse some. btrfs is not among them: there one
/// number means another file in each subvolume.
const KINDS: &[Kind] = &[
    kind("EROFS", "erofs", &["crc32c_generic", "erofs"]),
    kind("F2FS", "f2fs", &["crc32_generic", "f2fs"]),
    kind("HFS", "hfs", &["hfs"]),
    kind("HFS+", "hfsplus", &["nls_utf8", "hfsplus"]),
    Kind {
        options: &["iocharset=utf8"],
        ..kind("JFS", "jfs", &["nls_utf8", "jfs"])
    },
    kind("NILFS2", "nilfs2", &["nilfs2"]),
    kind("ReiserFS", "reiserfs", &["reiserfs"]),
    kind("squashfs", "squashfs", &["squashfs"]),
    Kind {
        options: &["iocharset=utf8"],
        ..kind("UDF", "udf", &["nls_utf8", "udf"])
    },
    Kind {
        options: &[
            "ufstype=ufs2",
            "ufstype=44bsd",
            "ufstype=sun",
            "ufstype=sunx86",
        ],
        ..kind("UFS", "ufs", &["ufs"])
    },
    kind("ext2", "ext4", &["crc32c_generic", "ext4"]),
    kind("ext3", "ext4", &["crc32c_generic", "ext4"]),
    kind("ext4", "ext4", &["crc32c_generic", "ext4"]),
    kind("XFS", "xfs", &["crc32c_generic", "xfs"]),
];
