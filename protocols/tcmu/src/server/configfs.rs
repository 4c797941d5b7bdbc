//! The kernel's target, as its file system of settings shows it (Documentation/target/tcmu-design in the kernel).
//!
//! Each backstore has an adapter of its own, `user_N`, as the administrator's tools make them too: those find and keep it
//! like any other.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::error::KernelError;

/// The kernel's files.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Where configfs is mounted.
    configfs: PathBuf,
    /// Where sysfs is mounted.
    sysfs: PathBuf,
    /// The folder of device files.
    devices: PathBuf,
}

/// A backstore that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitSpec {
    /// What it is called.
    pub name: String,
    /// Which disk it is, for ever.
    pub identity: [u8; 16],
    /// Capacity.
    pub size_bytes: u64,
    /// Size of a logical block.
    pub block_bytes: u32,
    /// Memory for data under way.
    pub data_area_mebibytes: u32,
}

/// A backstore that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backstore {
    /// What it is called.
    pub name: String,
    /// Its folder.
    pub path: PathBuf,
    /// The number of its adapter.
    adapter: u32,
    /// What it says of itself: whose it is.
    config: String,
}

/// Until this is dropped, the kernel answers new commands with BUSY, so that initiators send them again.
#[derive(Debug)]
pub(super) struct Pause<'a> {
    kernel: &'a Kernel,
    file: Option<PathBuf>,
}

impl Kernel {
    /// This machine's.
    pub fn system() -> Self {
        Self::at(Path::new("/"))
    }

    /// One whose files lie below `root`.
    pub fn at(root: &Path) -> Self {
        Self {
            configfs: root.join("sys/kernel/config"),
            sysfs: root.join("sys"),
            devices: root.join("dev"),
        }
    }

    /// Whether backstores can be made here.
    ///
    /// # Errors
    /// What is missing, with what to do about it.
    pub fn check(&self) -> Result<(), KernelError> {
        let module = self.sysfs.join("module/target_core_user");
        if !module.exists() {
            return Err(KernelError::NoModule);
        }
        let core = self.core();
        if !core.is_dir() {
            return Err(KernelError::NotMounted(self.configfs.clone()));
        }
        match rustix::fs::access(&core, rustix::fs::Access::WRITE_OK) {
            Ok(()) => Ok(()),
            Err(_) => Err(KernelError::NotPermitted(core)),
        }
    }

    /// The backstore called `name`.
    pub(super) fn find(&self, name: &str) -> Result<Option<Backstore>, KernelError> {
        check_name(name)?;
        let core = self.core();
        let entries = match fs::read_dir(&core) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(failed("list", &core)(source)),
        };
        for entry in entries {
            let adapter = entry.map_err(failed("list", &core))?;
            let Some(number) = adapter_number(&adapter.file_name()) else {
                continue;
            };
            let path = adapter.path().join(name);
            if path.is_dir() {
                let config = read_text(&path.join("attrib/dev_config"))?;
                return Ok(Some(Backstore {
                    name: name.to_owned(),
                    path,
                    adapter: number,
                    config,
                }));
            }
        }
        Ok(None)
    }

    /// The backstore called `name`, if it is of the disk `identity`, or was left by a process that died making it.
    pub(super) fn find_own(
        &self,
        name: &str,
        identity: [u8; 16],
    ) -> Result<Option<Backstore>, KernelError> {
        let own = config(identity);
        match self.find(name)? {
            Some(found) if found.config == own || found.is_unfinished()? => Ok(Some(found)),
            _ => Ok(None),
        }
    }

    /// Takes over the backstore that is there, or makes it.
    pub(super) fn find_or_make(&self, spec: &UnitSpec) -> Result<Backstore, KernelError> {
        self.check()?;
        let wanted = config(spec.identity);
        let mut backstore = match self.find(&spec.name)? {
            Some(found) if found.config == wanted || found.is_unfinished()? => found,
            Some(found) => {
                return Err(KernelError::NameTaken {
                    name: found.name,
                    config: found.config,
                });
            }
            None => self.make_folder(spec)?,
        };
        if !backstore.is_enabled()? {
            self.set_up(&backstore, spec)?;
            backstore.config = wanted;
        }
        let found = read_number(&backstore.path.join("attrib/dev_size"))?;
        if found != spec.size_bytes {
            return Err(KernelError::OtherSize {
                name: backstore.name,
                found,
                wanted: spec.size_bytes,
                path: backstore.path,
            });
        }
        Ok(backstore)
    }

    /// Size of a logical block of a backstore.
    pub(super) fn block_bytes(&self, backstore: &Backstore) -> Result<u32, KernelError> {
        let number = read_number(&backstore.path.join("attrib/hw_block_size"))?;
        Ok(u32::try_from(number).unwrap_or(0))
    }

    /// Lets the kernel answer new commands with BUSY for a while.
    pub(super) fn pause(&self, backstore: &Backstore) -> Result<Pause<'_>, KernelError> {
        let file = backstore.path.join("action/block_dev");
        // A process that died meanwhile may have left it so.
        if read_text(&file)? != "blocked" {
            self.write(&file, "1")?;
        }
        Ok(Pause {
            kernel: self,
            file: Some(file),
        })
    }

    /// Gives all commands back that are in the ring, as BUSY.
    pub(super) fn reset_ring(&self, backstore: &Backstore) -> Result<(), KernelError> {
        self.write(&backstore.path.join("action/reset_ring"), "1")
    }

    /// The LUNs through which fabrics show a backstore.
    pub(super) fn luns(&self, backstore: &Backstore) -> Result<Vec<PathBuf>, KernelError> {
        let end: PathBuf = backstore.path.components().rev().take(2).collect();
        let end: PathBuf = end.components().rev().collect();
        let mut luns = Vec::new();
        // FABRIC/TARGET/GROUP/lun/LUN/LINK
        let mut folders = vec![(self.configfs.join("target"), 0)];
        while let Some((folder, depth)) = folders.pop() {
            // What goes away meanwhile shows nothing.
            let Ok(entries) = fs::read_dir(&folder) else {
                continue;
            };
            for entry in entries.filter_map(Result::ok) {
                let path = entry.path();
                let kind = entry.file_type();
                if kind.as_ref().is_ok_and(fs::FileType::is_symlink) {
                    let shows = fs::read_link(&path).is_ok_and(|to| to.ends_with(&end));
                    if depth == LUN_DEPTH && shows {
                        luns.push(folder.clone());
                    }
                } else if kind.is_ok_and(|kind| kind.is_dir())
                    && depth < LUN_DEPTH
                    && !(depth == 0 && entry.file_name() == "core")
                    && (depth != LUN_DEPTH - 2 || entry.file_name() == "lun")
                {
                    folders.push((path, depth + 1));
                }
            }
        }
        luns.sort();
        Ok(luns)
    }

    /// Removes a backstore.
    pub(super) fn remove(&self, backstore: &Backstore) -> Result<(), KernelError> {
        let in_use = |luns| KernelError::InUse {
            name: backstore.name.clone(),
            luns,
        };
        let luns = self.luns(backstore)?;
        if !luns.is_empty() {
            return Err(in_use(luns));
        }
        fs::remove_dir(&backstore.path).map_err(|source| match source.kind() {
            io::ErrorKind::ResourceBusy => in_use(Vec::new()),
            _ => failed("remove", &backstore.path)(source),
        })?;
        if let Some(adapter) = backstore.path.parent()
            && let Err(error) = fs::remove_dir(adapter)
        {
            // Somebody else put one of theirs beside it.
            tracing::debug!(%error, adapter = %adapter.display(), "an adapter of the kernel stays");
        }
        Ok(())
    }

    pub(super) fn devices_folder(&self) -> PathBuf {
        self.sysfs.join("class/uio")
    }

    pub(super) fn device_file(&self, name: &OsStr) -> PathBuf {
        self.devices.join(name)
    }

    fn core(&self) -> PathBuf {
        self.configfs.join("target/core")
    }

    /// Makes the folder of a backstore in an adapter of its own.
    fn make_folder(&self, spec: &UnitSpec) -> Result<Backstore, KernelError> {
        for adapter in 0..ADAPTERS_MAX {
            let folder = self.core().join(format!("{ADAPTER}{adapter}"));
            match fs::create_dir(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(KernelError::NotPermitted(folder));
                }
                Err(source) => return Err(failed("make", &folder)(source)),
            }
            let path = folder.join(&spec.name);
            if let Err(source) = fs::create_dir(&path) {
                if let Err(error) = fs::remove_dir(&folder) {
                    tracing::debug!(%error, adapter = %folder.display(), "an empty adapter stays");
                }
                return Err(failed("make", &path)(source));
            }
            return Ok(Backstore {
                name: spec.name.clone(),
                path,
                adapter,
                config: String::new(),
            });
        }
        Err(KernelError::TooMany)
    }

    fn set_up(&self, backstore: &Backstore, spec: &UnitSpec) -> Result<(), KernelError> {
        let path = |name: &str| backstore.path.join(name);
        // A reply over netlink is what other programs of this kind wait for; nobody shall be asked for ours.
        let control = format!(
            "dev_config={},dev_size={},hw_block_size={},max_data_area_mb={},nl_reply_supported=-1",
            config(spec.identity),
            spec.size_bytes,
            spec.block_bytes,
            spec.data_area_mebibytes
        );
        self.write(&path("control"), &control)?;
        // Initiators know best how long they want to wait; a restart of the daemon must not be an error of the disk.
        self.write(&path("attrib/cmd_time_out"), "0")?;
        self.write(&path("wwn/vpd_unit_serial"), &serial(spec.identity))?;
        // What has no room waits as long; 0 would refuse it at once. Kernels before 5.9 do not tell of aborted commands.
        for (setting, value) in [
            ("attrib/qfull_time_out", A_WEEK_SECS),
            ("attrib/tmr_notification", "1"),
        ] {
            let setting = path(setting);
            if setting.exists() {
                self.write(&setting, value)?;
            }
        }
        // The last step: a backstore that is enabled has all its settings.
        self.write(&path("enable"), "1")
    }

    fn write(&self, path: &Path, text: &str) -> Result<(), KernelError> {
        let file = OpenOptions::new().write(true).open(path);
        // The kernel takes a setting in one write.
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(failed("write to", path))
    }
}

impl Backstore {
    /// What its device is called.
    pub(super) fn device_name(&self) -> String {
        format!("tcm-user/{}/{}/{}", self.adapter, self.name, self.config)
    }

    fn is_enabled(&self) -> Result<bool, KernelError> {
        Ok(read_text(&self.path.join("enable"))? == "1")
    }

    /// Whether a process died while it made this.
    fn is_unfinished(&self) -> Result<bool, KernelError> {
        Ok(self.config.is_empty() && !self.is_enabled()?)
    }
}

impl Pause<'_> {
    /// Lets commands come again.
    pub(super) fn end(mut self) -> Result<(), KernelError> {
        match self.file.take() {
            Some(file) => self.kernel.write(&file, "0"),
            None => Ok(()),
        }
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        if let Some(file) = self.file.take()
            && let Err(error) = self.kernel.write(&file, "0")
        {
            tracing::warn!(%error, "a backstore still answers with BUSY");
        }
    }
}

/// Reads one of the kernel's small files.
pub(super) fn read_text(path: &Path) -> Result<String, KernelError> {
    let text = fs::read_to_string(path).map_err(failed("read", path))?;
    Ok(text.trim_end().to_owned())
}

fn read_number(path: &Path) -> Result<u64, KernelError> {
    let text = read_text(path)?;
    text.parse().map_err(|_| {
        let source = io::Error::new(io::ErrorKind::InvalidData, format!("`{text}` is no number"));
        failed("read", path)(source)
    })
}

/// What a backstore says of itself: which disk it is, so that no other is ever served under its name.
fn config(identity: [u8; 16]) -> String {
    format!("{OURS}{}", serial(identity))
}

fn serial(identity: [u8; 16]) -> String {
    identity.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> KernelError + 'a {
    move |source| KernelError::File {
        what,
        path: path.to_owned(),
        source,
    }
}

fn check_name(name: &str) -> Result<(), KernelError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(is_plain)
        && !name.starts_with('.')
    {
        Ok(())
    } else {
        Err(KernelError::BadName(name.to_owned()))
    }
}

fn adapter_number(name: &OsStr) -> Option<u32> {
    name.to_str()?.strip_prefix(ADAPTER)?.parse().ok()
}

/// The kernel counts in milliseconds, with 31 bits.
const A_WEEK_SECS: &str = "604800";
const ADAPTER: &str = "user_";
const ADAPTERS_MAX: u32 = 4096;
/// What the configuration of all our backstores begins with.
const OURS: &str = "holdfast/";
/// The device's name is put together from it, and has its limit in the kernel.
const NAME_BYTES_MAX: usize = 128;
/// How deep below `target` a LUN's folder is.
const LUN_DEPTH: usize = 5;
