//! What can go wrong with the kernel's target.

use std::io;
use std::path::PathBuf;

/// The kernel's target cannot be used, or does not do what it was told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The module is not loaded.
    #[error(
        "the kernel's SCSI target for user space is not loaded; run `modprobe target_core_user`, and write target_core_user into /etc/modules-load.d/holdfast.conf for the next start"
    )]
    NoModule,
    /// The file system by which it is told what to do is not mounted.
    #[error(
        "configfs is not mounted at {}; run `mount -t configfs configfs {}`",
        .0.display(),
        .0.display()
    )]
    NotMounted(PathBuf),
    /// Only root may use it.
    #[error(
        "the kernel's SCSI target at {} belongs to root; run the daemon as root to serve through it (docs/operations/san.md)",
        .0.display()
    )]
    NotPermitted(PathBuf),
    /// Reading or writing one of the kernel's files failed.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was attempted.
        what: &'static str,
        /// Which file or folder.
        path: PathBuf,
        /// How it failed.
        #[source]
        source: io::Error,
    },
    /// A name that the kernel could not take.
    #[error("`{0}` is no name for a backstore")]
    BadName(String),
    /// The backstore is somebody else's.
    #[error(
        "the kernel has another backstore called {name} ({config}); remove that, or start the session under another name"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// What it says of itself.
        config: String,
    },
    /// The backstore has not the size of the disk.
    #[error(
        "the kernel's backstore {name} has {found} bytes and the disk has {wanted}; remove {}",
        path.display()
    )]
    OtherSize {
        /// The name.
        name: String,
        /// What the kernel has.
        found: u64,
        /// What it should have.
        wanted: u64,
        /// Where it is.
        path: PathBuf,
    },
    /// A fabric shows the backstore to initiators.
    #[error(
        "the kernel still shows {name} to initiators; remove these LUNs first: {}",
        paths(luns)
    )]
    InUse {
        /// The backstore.
        name: String,
        /// The LUNs.
        luns: Vec<PathBuf>,
    },
    /// The device through which commands come is not there.
    #[error(
        "the kernel has no uio device for backstore {0}; check that the module uio is loaded and that udev or devtmpfs makes /dev/uio*"
    )]
    NoDevice(String),
    /// Somebody else serves it.
    #[error("{} is served by another process; stop that one", .0.display())]
    Busy(PathBuf),
    /// There is no number left for one more.
    #[error("the kernel has too many backstores")]
    TooMany,
}

/// The ring is not as the kernel's header says. Nothing that it says is believed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// Another version of the layout.
    #[error("the ring has version {0}, and only version 2 is known")]
    Version(u16),
    /// The kernel cannot take answers out of order.
    #[error("the kernel takes no answers out of order; Linux 4.18 or newer does")]
    InOrder,
    /// The mailbox says that the ring lies where it cannot.
    #[error("the mailbox places the ring at {at} with {length} bytes, in {memory} bytes of memory")]
    Ring {
        /// Where it begins.
        at: u32,
        /// How long it is.
        length: u32,
        /// Bytes of memory.
        memory: u64,
    },
    /// The kernel's place is outside of the ring.
    #[error("the kernel's place in the ring is {0}, which is none")]
    Head(u32),
    /// An entry that is too short, too long, or not aligned.
    #[error("the entry at {at} of the ring has {length} bytes, which cannot be")]
    Entry {
        /// Where it begins in the ring.
        at: u32,
        /// What it says of itself.
        length: u32,
    },
    /// A command that lies outside of its entry.
    #[error("the entry at {0} of the ring has its command elsewhere")]
    Cdb(u32),
    /// Data that lies outside of the data area.
    #[error("the entry at {0} of the ring names data outside of the data area")]
    Data(u32),
    /// A command with the number of one that is under way.
    #[error("command {0} came while it was under way")]
    Twice(u16),
    /// An answer to a command that is not under way.
    #[error("command {0} is answered and not under way")]
    NotUnderWay(u16),
}

/// A disk cannot be served through the kernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The kernel refused or cannot.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The disk cannot be a logical unit.
    #[error("cannot make a logical unit of the disk")]
    Unit(#[from] scsi::ScsiError),
    /// The memory could not be mapped.
    #[error("cannot map the ring of {}", path.display())]
    Map {
        /// The device.
        path: PathBuf,
        /// How it failed.
        #[source]
        source: io::Error,
    },
    /// The ring cannot be used.
    #[error("cannot use the ring of {}", path.display())]
    Ring {
        /// The device.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: RingError,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread for the ring")]
    Thread(#[source] io::Error),
}

fn paths(luns: &[PathBuf]) -> String {
    let texts: Vec<_> = luns.iter().map(|lun| lun.display().to_string()).collect();
    texts.join(", ")
}
