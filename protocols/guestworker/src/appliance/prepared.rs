//! What machines start from: files without names, which are gone with the last who holds them, however that ends.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use super::found::Found;
use super::{initramfs, kernel};

/// A kernel and its first files.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) found: Found,
    /// The kernel, if it is unpacked.
    pub(super) kernel: Option<File>,
    pub(super) initramfs: File,
    pub(super) initramfs_bytes: u64,
}

impl Prepared {
    pub(super) fn make(found: Found, program: &Path) -> io::Result<Self> {
        let mut initramfs = tempfile::tempfile()?;
        initramfs::write(&found, program, &mut initramfs)?;
        Ok(Self {
            kernel: unpack(&found)?,
            initramfs_bytes: initramfs.metadata()?.len(),
            initramfs,
            found,
        })
    }
}

/// Where the processor runs the machine, the kernel unpacks itself as fast.
fn unpack(found: &Found) -> io::Result<Option<File>> {
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
    let mut file = tempfile::tempfile()?;
    file.write_all(&unpacked)?;
    Ok(Some(file))
}
