//! What the small machine is made of, as far as it is installed.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// Everything that it takes.
#[derive(Debug, Clone)]
pub struct Found {
    pub(super) qemu: PathBuf,
    /// The kernel, of the version whose modules lie in `modules`.
    pub(super) kernel: PathBuf,
    pub(super) modules: PathBuf,
}

/// What is missing, and how to get it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ApplianceError {
    /// There are no such machines of this kind.
    #[error("it is for x86-64 only")]
    OtherProcessor,
    /// No QEMU.
    #[error("there is no {QEMU}: install the package qemu-system-x86")]
    NoQemu,
    /// No kernel that may be read, with its modules.
    #[error(
        "there is no kernel in /boot that this user may read, with its modules in /lib/modules: install the package linux-image-amd64"
    )]
    NoKernel,
}

impl Found {
    /// Looks at the usual places; the newest kernel counts.
    ///
    /// # Errors
    /// What is missing.
    pub fn look() -> Result<Self, ApplianceError> {
        if !cfg!(target_arch = "x86_64") {
            return Err(ApplianceError::OtherProcessor);
        }
        let mut programs = FOLDERS.iter().map(|folder| Path::new(folder).join(QEMU));
        let qemu = programs.find(|path| access(path, Access::EXEC_OK).is_ok());
        let (kernel, modules) = newest_kernel().ok_or(ApplianceError::NoKernel)?;
        Ok(Self {
            qemu: qemu.ok_or(ApplianceError::NoQemu)?,
            kernel,
            modules,
        })
    }

    /// Whether the processor runs the machine; else it is emulated, which is many times slower.
    pub fn has_kvm(&self) -> bool {
        can_virtualize() && fs::File::options().read(true).write(true).open(KVM).is_ok()
    }

    /// The kernel that reads.
    pub fn kernel(&self) -> &Path {
        &self.kernel
    }
}

/// Where the processor cannot, the device may be there nevertheless, and what stands behind it does not start a kernel.
fn can_virtualize() -> bool {
    let known = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    known
        .split_ascii_whitespace()
        .any(|flag| matches!(flag, "vmx" | "svm"))
}

fn newest_kernel() -> Option<(PathBuf, PathBuf)> {
    let mut found: Vec<(Vec<u64>, PathBuf, PathBuf)> = fs::read_dir("/boot")
        .ok()?
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = path.file_name()?.to_str()?.strip_prefix("vmlinuz-")?;
            let modules = Path::new("/lib/modules").join(version);
            let is_whole = access(&path, Access::READ_OK).is_ok()
                && access(modules.join("modules.dep"), Access::READ_OK).is_ok();
            is_whole.then(|| (numbers(version), path.clone(), modules))
        })
        .collect();
    found.sort();
    let (_, kernel, modules) = found.pop()?;
    Some((kernel, modules))
}

/// The numbers in a version, which compare as it does.
fn numbers(version: &str) -> Vec<u64> {
    version
        .split(|letter: char| !letter.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

const QEMU: &str = "qemu-system-x86_64";
const FOLDERS: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];
pub(super) const KVM: &str = "/dev/kvm";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_kernels_count_more() {
        let newer = |one: &str, other: &str| numbers(one) > numbers(other);
        assert!(newer("6.1.0-56-amd64", "6.1.0-9-amd64"));
        assert!(newer("6.12.3+deb13-amd64", "6.1.0-56-amd64"));
        assert!(newer("10.0.0-1-amd64", "9.9.9-9-amd64"));
    }
}
