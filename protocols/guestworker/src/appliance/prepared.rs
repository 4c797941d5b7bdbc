//! What machines start from, in files that are gone with the last of them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::found::Found;
use super::{initramfs, kernel};

/// A kernel and its first files.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) found: Found,
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
    pub(super) initramfs_bytes: u64,
    /// Holds the files.
    folder: TempDir,
}

impl Prepared {
    pub(super) fn make(found: Found, program: &Path) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("holdfast-").tempdir()?;
        let start = folder.path().join(START);
        fs::create_dir(&start)?;
        let initramfs = start.join("initramfs");
        initramfs::write(&found, program, &initramfs)?;
        let kernel = match unpack(&found, &start)? {
            Some(unpacked) => unpacked,
            None => found.kernel.clone(),
        };
        Ok(Self {
            initramfs_bytes: fs::metadata(&initramfs)?.len(),
            found,
            kernel,
            initramfs,
            folder,
        })
    }

    /// The folder in which each machine has one of its own.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// Where the processor runs the machine, the kernel unpacks itself as fast.
fn unpack(found: &Found, folder: &Path) -> io::Result<Option<PathBuf>> {
    if found.has_kvm() {
        return Ok(None);
    }
    let Some(unpacked) = kernel::unpack(&fs::read(&found.kernel)?) else {
        tracing::info!(
            kernel = %found.kernel.display(),
            "the kernel for the small machine cannot be unpacked here, so that it starts some seconds later"
        );
        return Ok(None);
    };
    let path = folder.join("kernel");
    fs::write(&path, unpacked)?;
    Ok(Some(path))
}

/// What all machines may read lies in this folder beside theirs.
pub(super) const START: &str = "start";
