//! The programs that this needs, and whether they are there.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::SmbError;

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Programs {
    pub(crate) smbd: PathBuf,
    pub(crate) smbpasswd: PathBuf,
    pub(crate) pdbedit: PathBuf,
    pub(crate) smbcontrol: PathBuf,
    pub(crate) smbstatus: PathBuf,
    pub(crate) unshare: PathBuf,
    pub(crate) nsenter: PathBuf,
    pub(crate) setpriv: PathBuf,
}

/// A Samba that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Its version, as it tells it.
    pub version: String,
    /// Whether it can show earlier versions.
    pub has_earlier_versions: bool,
}

impl Programs {
    /// Finds them where programs of the system are.
    ///
    /// # Errors
    /// [`SmbError::NoProgram`].
    pub fn find() -> Result<Self, SmbError> {
        Ok(Self {
            smbd: find("smbd", "samba")?,
            smbpasswd: find("smbpasswd", "samba-common-bin")?,
            pdbedit: find("pdbedit", "samba")?,
            smbcontrol: find("smbcontrol", "samba")?,
            smbstatus: find("smbstatus", "samba")?,
            unshare: find("unshare", "util-linux")?,
            nsenter: find("nsenter", "util-linux")?,
            setpriv: find("setpriv", "util-linux")?,
        })
    }

    /// Asks `smbd` what it is.
    ///
    /// # Errors
    /// If it cannot be run, or says nothing of the kind.
    pub fn installed(&self) -> Result<Installed, SmbError> {
        let version = said(&self.smbd, "-V")?;
        let version = version.trim().trim_start_matches("Version ").to_owned();
        let built = said(&self.smbd, "-b")?;
        let modules = built
            .lines()
            .find_map(|line| line.trim().strip_prefix("MODULESDIR:"))
            .ok_or_else(|| SmbError::Unreadable {
                name: "smbd",
                detail: "it does not say where its modules are".to_owned(),
            })?;
        let module = Path::new(modules.trim()).join("vfs/shadow_copy2.so");
        Ok(Installed {
            version,
            has_earlier_versions: module.exists(),
        })
    }
}

impl Installed {
    /// Whether it is as new as what this was made with: 4.17 prints its state for programs.
    pub fn is_new_enough(&self) -> bool {
        let mut parts = self.version.split('.').map(|part| part.parse::<u32>().ok());
        let major = parts.next().flatten().unwrap_or(0);
        let minor = parts.next().flatten().unwrap_or(0);
        (major, minor) >= (4, 17)
    }
}

/// A command with nothing of this process's surroundings in it.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", FOLDERS.join(":"))
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null());
    command
}

fn find(name: &'static str, package: &'static str) -> Result<PathBuf, SmbError> {
    let found = FOLDERS
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.is_file());
    found.ok_or(SmbError::NoProgram { name, package })
}

fn said(smbd: &Path, option: &str) -> Result<String, SmbError> {
    let output = command(smbd).arg(option).output();
    let output = output.map_err(|source| SmbError::Run {
        name: "smbd",
        source,
    })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

const FOLDERS: &[&str] = &[
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        let new_enough = |version: &str| {
            let installed = Installed {
                version: version.to_owned(),
                has_earlier_versions: true,
            };
            installed.is_new_enough()
        };
        assert!(new_enough("4.17.12-Debian") && new_enough("4.22.0") && new_enough("5.0"));
        assert!(!new_enough("4.9.5-Debian") && !new_enough("3.99") && !new_enough(""));
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let error = find("no-such-program", "samba").unwrap_err().to_string();
        assert!(error.contains("install Debian's package samba"), "{error}");
    }
}
