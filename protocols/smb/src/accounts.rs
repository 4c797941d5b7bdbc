//! Users of the server: each a line in a private list of users, and a hash of a password in Samba's own database.
//!
//! The list is mounted over the machine's for `smbd` and what it starts, which read it at every login; so lines are only
//! added to it while the server runs, each in one write. A user without a line of its own in the database cannot log in.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use parking_lot::Mutex;

use crate::error::file;
use crate::folder::{Folder, GROUPS, NAME_SERVICES, USERS};
use crate::namespace::Namespace;
use crate::{Password, Programs, SmbError, UserName};

/// The users.
#[derive(Debug)]
pub(crate) struct Accounts {
    folder: Folder,
    namespace: Namespace,
    programs: Programs,
    listed: Mutex<Vec<UserName>>,
}

impl Accounts {
    /// Begins a list with nobody in it. Passwords of before are kept.
    pub(crate) fn open(
        folder: &Folder,
        programs: &Programs,
        namespace: &Namespace,
    ) -> Result<Self, SmbError> {
        folder.write(USERS, FIRST_USERS)?;
        folder.write(GROUPS, FIRST_GROUPS)?;
        folder.write(NAME_SERVICES, SERVICES)?;
        Ok(Self {
            folder: folder.clone(),
            namespace: namespace.clone(),
            programs: programs.clone(),
            listed: Mutex::default(),
        })
    }

    /// Lets a user in with the password that it has, if it has one.
    pub(crate) fn list(&self, user: &UserName) -> Result<(), SmbError> {
        let mut listed = self.listed.lock();
        if listed.contains(user) {
            return Ok(());
        }
        let number = u32::try_from(listed.len()).unwrap_or(u32::MAX / 2);
        let line = line(user, number);
        let path = self.folder.users();
        let added = fs::File::options()
            .append(true)
            .open(&path)
            .and_then(|mut opened| opened.write_all(line.as_bytes()));
        added.map_err(file("add to", &path))?;
        listed.push(user.clone());
        Ok(())
    }

    /// Gives a user that is listed a password.
    pub(crate) fn set_password(
        &self,
        user: &UserName,
        password: &Password,
    ) -> Result<(), SmbError> {
        let mut command = self.namespace.command(&self.programs.smbpasswd);
        command.arg("-c").arg(self.folder.configuration());
        command.args(["-s", "-a", user.as_str()]);
        let password = password.reveal();
        let typed = zeroize::Zeroizing::new(format!("{password}\n{password}\n"));
        run("smbpasswd", command, typed.as_bytes()).map(drop)
    }

    /// Keeps a user out from now on.
    pub(crate) fn forget(&self, user: &UserName) -> Result<(), SmbError> {
        let mut command = self.namespace.command(&self.programs.smbpasswd);
        command.arg("-c").arg(self.folder.configuration());
        command.args(["-x", user.as_str()]);
        run("smbpasswd", command, b"").map(drop)
    }

    /// Who has a password.
    pub(crate) fn with_password(&self) -> Result<BTreeSet<UserName>, SmbError> {
        let mut command = self.namespace.command(&self.programs.pdbedit);
        command.arg("-s").arg(self.folder.configuration()).arg("-L");
        let listed = run("pdbedit", command, b"")?;
        let names = listed.lines().filter_map(|line| line.split(':').next());
        Ok(names.filter_map(|name| name.parse().ok()).collect())
    }
}

/// Runs a program to its end with something typed into it; gives what it printed.
pub(crate) fn run(
    name: &'static str,
    mut command: Command,
    typed: &[u8],
) -> Result<String, SmbError> {
    let failed = |source| SmbError::Run { name, source };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends without reading says why itself.
        match stdin.write_all(typed) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                return Err(failed(error));
            }
            _ => {}
        }
    }
    let output = child.wait_with_output().map_err(failed)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let mut said = text(&output.stderr);
    if said.is_empty() {
        said = text(&output.stdout);
    }
    let last = said.lines().last().unwrap_or("it gave no reason");
    Err(SmbError::Refused {
        name,
        said: format!("{last} ({})", output.status),
    })
}

fn line(user: &UserName, number: u32) -> String {
    let mut line = String::new();
    let id = FIRST_ID.saturating_add(number);
    writeln!(line, "{user}:x:{id}:{NOBODYS_GROUP}::/:/usr/sbin/nologin")
        .expect("a string takes any text");
    line
}

/// Who must be there: shares are used as root, and Samba wants somebody for those without a name.
const FIRST_USERS: &str =
    "root:x:0:0::/:/usr/sbin/nologin\nnobody:x:65534:65534::/:/usr/sbin/nologin\n";
const FIRST_GROUPS: &str = "root:x:0:\nnogroup:x:65534:\n";
const SERVICES: &str = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n";

/// Far above what machines give to users and containers. No file ever belongs to one of these.
const FIRST_ID: u32 = 0x6000_0000;
const NOBODYS_GROUP: u32 = 65534;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_is_a_line_with_a_number_of_its_own() {
        let user: UserName = "holdfast-17".parse().unwrap();
        assert_eq!(
            line(&user, 1),
            "holdfast-17:x:1610612737:65534::/:/usr/sbin/nologin\n"
        );
    }

    #[test]
    fn what_a_program_says_last_is_told() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "cat; echo first >&2; echo last >&2; exit 3"]);
        let error = run("sh", command, b"typed").unwrap_err();
        assert_eq!(error.to_string(), "sh failed: last (exit status: 3)");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "cat"]);
        assert_eq!(run("sh", command, b"typed").unwrap(), "typed");
    }
}
