//! The disks of the machine, each a volume of a guest, mounted when somebody asks.

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use export::{BlockExport, ExportError, FileExport};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_remount};

use super::folder::FolderTree;
use super::load;
use crate::appliance::Kind;
use crate::reader::{GuestVolume, Reader, Refusal, Used, VolumeDescription, VolumePlace};

/// Finds the machine's disks.
pub(super) struct Devices;

/// A disk, and what it is said to hold.
struct Device {
    number: u32,
    description: VolumeDescription,
    path: PathBuf,
}

impl Reader for Devices {
    fn open(&self, _: &[Arc<dyn BlockExport>]) -> Result<Vec<Box<dyn GuestVolume>>, Refusal> {
        let mut found = Device::all().map_err(|error| failed(&error))?;
        found.sort_unstable_by_key(|device| device.number);
        let volume = |device| Box::new(device) as Box<dyn GuestVolume>;
        Ok(found.into_iter().map(volume).collect())
    }
}

impl Device {
    fn all() -> io::Result<Vec<Self>> {
        let mut all = Vec::new();
        for entry in fs::read_dir("/sys/block")? {
            let entry = entry?;
            let read = |name: &str| fs::read_to_string(entry.path().join(name));
            // As `appliance::machine` gives it.
            let Ok(serial) = read("serial") else {
                continue;
            };
            let Some((number, kind)) = serial.trim().split_once('-') else {
                continue;
            };
            let sectors: u64 = read("size")?.trim().parse().unwrap_or(0);
            let number = number.parse().map_err(io::Error::other)?;
            all.push(Self {
                number,
                path: Path::new("/dev").join(entry.file_name()),
                description: VolumeDescription {
                    place: VolumePlace::Disk(number),
                    name: "disk".to_owned(),
                    offset_bytes: 0,
                    length_bytes: sectors * 512,
                    partition: None,
                    content: kind.to_owned(),
                    label: None,
                },
            });
        }
        Ok(all)
    }

    /// For writing first, as some kernels replay some journals only so, and what is written goes nowhere; what cannot be
    /// written may still be read.
    fn mount(&self, kind: Kind, folder: &Path) -> Result<(), Errno> {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let flags = flags | MountFlags::NOATIME;
        let mut last = Errno::NODEV;
        for access in [MountFlags::empty(), MountFlags::RDONLY] {
            for options in kind.options {
                let options = CString::new(*options).map_err(|_| Errno::INVAL)?;
                let options = Some(options.as_c_str());
                match mount(&self.path, folder, kind.name, flags | access, options) {
                    Ok(()) => {
                        // Where it is refused, the kernel goes on to write to what is gone with the machine.
                        mount_remount(folder, flags | MountFlags::RDONLY, c"").ok();
                        return Ok(());
                    }
                    Err(error) => last = error,
                }
            }
        }
        Err(last)
    }
}

impl GuestVolume for Device {
    fn description(&self) -> &VolumeDescription {
        &self.description
    }

    fn files(&self) -> Result<Arc<dyn FileExport>, Refusal> {
        let kind = Kind::by_name(&self.description.content).ok_or(ExportError::NotSupported)?;
        let folder = PathBuf::from(format!("/volumes/{}", self.number));
        fs::create_dir_all(&folder).map_err(|error| failed(&error))?;
        load(kind.name).map_err(|error| {
            let text = format!("its kernel does not load {}: {error}", kind.name);
            Refusal::new(text, ExportError::NotSupported)
        })?;
        self.mount(kind, &folder).map_err(|error| {
            let text = format!("its kernel does not mount it as {}: {error}", kind.name);
            let cause = match error {
                Errno::NODEV | Errno::OPNOTSUPP => ExportError::NotSupported,
                _ => ExportError::Corrupt {
                    detail: text.as_str().into(),
                },
            };
            Refusal::new(text, cause)
        })?;
        Ok(Arc::new(FolderTree::open(folder)?))
    }

    fn allocated(&self) -> Result<Used, Refusal> {
        Err(ExportError::NotSupported.into())
    }
}

fn failed(error: &io::Error) -> Refusal {
    let detail = format!("its kernel does not show its disks: {error}").into();
    ExportError::Corrupt { detail }.into()
}
