//! Finding the device through which the kernel shares a backstore's ring.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::OFlags;

use super::configfs::{Backstore, Kernel, read_text};
use crate::error::KernelError;

/// An open device.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) path: PathBuf,
    pub(super) file: Arc<File>,
    /// Bytes that can be mapped.
    pub(super) length_bytes: usize,
}

impl Kernel {
    /// Opens the device of a backstore, which nobody else may have open.
    pub(super) fn open_device(&self, backstore: &Backstore) -> Result<Device, KernelError> {
        let wanted = backstore.device_name();
        let classes = self.devices_folder();
        let failed = |what, path: PathBuf| move |source| KernelError::File { what, path, source };
        let entries =
            fs::read_dir(&classes).map_err(failed("list the devices of", classes.clone()))?;
        for entry in entries {
            let folder = entry
                .map_err(failed("list the devices of", classes.clone()))?
                .path();
            // One that goes away while the others are looked at is not ours.
            if read_text(&folder.join("name")).is_ok_and(|name| name == wanted) {
                return self.open(backstore, &folder);
            }
        }
        Err(KernelError::NoDevice(backstore.name.clone()))
    }

    fn open(&self, backstore: &Backstore, class: &std::path::Path) -> Result<Device, KernelError> {
        let missing = || KernelError::NoDevice(backstore.name.clone());
        let path = self.device_file(class.file_name().ok_or_else(missing)?);
        let size = read_text(&class.join("maps/map0/size"))?;
        let length_bytes = size
            .strip_prefix("0x")
            .and_then(|digits| usize::from_str_radix(digits, 16).ok())
            .ok_or_else(missing)?;
        let flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
            .open(&path)
            .map_err(|source| match source.kind() {
                io::ErrorKind::ResourceBusy => KernelError::Busy(path.clone()),
                io::ErrorKind::NotFound => missing(),
                io::ErrorKind::PermissionDenied => KernelError::NotPermitted(path.clone()),
                _ => KernelError::File {
                    what: "open",
                    path: path.clone(),
                    source,
                },
            })?;
        Ok(Device {
            path,
            file: Arc::new(file),
            length_bytes,
        })
    }
}
