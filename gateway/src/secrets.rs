//! Where the key of an encrypted repository comes from: a file, a command, the environment, or systemd.

use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use repo::{RepoError, Secret};
use zeroize::Zeroizing;

use crate::config::RepositoryConfig;

/// A place that has a passphrase or key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A file with a key.
    KeyFile(PathBuf),
    /// A file with a passphrase, or with the text of a key.
    PassphraseFile(PathBuf),
    /// A command for the shell that prints either.
    Command(String),
    /// The environment variable `HOLDFAST_PASSPHRASE`.
    Environment,
}

/// No passphrase or key can be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Several places are named.
    #[error("{0} both say where the repository's key is; keep one of them")]
    Several(String),
    /// A file cannot be read.
    #[error("cannot read the key in {}; check the path and its rights", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The command failed.
    #[error("the key command `{command}` failed: {reason}")]
    Command {
        /// What was run.
        command: String,
        /// How it ended.
        reason: String,
    },
    /// What was found is no key.
    #[error("{place}")]
    Unusable {
        /// Where it came from.
        place: String,
        /// Why it is none.
        #[source]
        source: RepoError,
    },
}

impl KeySource {
    /// The one of three that is given.
    ///
    /// # Errors
    /// If more than one is.
    pub fn one_of(
        key_file: Option<&Path>,
        passphrase_file: Option<&Path>,
        command: Option<&str>,
    ) -> Result<Option<Self>, SecretError> {
        let given = [
            key_file.map(|path| ("key file", Self::KeyFile(path.to_owned()))),
            passphrase_file.map(|path| ("passphrase file", Self::PassphraseFile(path.to_owned()))),
            command.map(|command| ("key command", Self::Command(command.to_owned()))),
        ];
        let mut given = given.into_iter().flatten();
        match (given.next(), given.next()) {
            (Some((one, _)), Some((two, _))) => {
                Err(SecretError::Several(format!("{one} and {two}")))
            }
            (first, _) => Ok(first.map(|(_, source)| source)),
        }
    }

    /// What the configuration names, else the environment, else systemd.
    ///
    /// # Errors
    /// If one of them names two places.
    pub fn configured(config: &RepositoryConfig) -> Result<Option<Self>, SecretError> {
        let configured = Self::one_of(
            config.key_file.as_deref(),
            config.passphrase_file.as_deref(),
            config.key_command.as_deref(),
        )?;
        match configured {
            Some(source) => Ok(Some(source)),
            None => Self::surroundings(),
        }
    }

    /// What the environment names, else systemd's credentials.
    ///
    /// # Errors
    /// If the environment names two places.
    pub fn surroundings() -> Result<Option<Self>, SecretError> {
        let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let command = std::env::var("HOLDFAST_KEY_COMMAND").ok();
        let named = Self::one_of(
            path("HOLDFAST_KEY_FILE").as_deref(),
            path("HOLDFAST_PASSPHRASE_FILE").as_deref(),
            command.as_deref(),
        )?;
        if named.is_some() {
            return Ok(named);
        }
        if std::env::var_os(PASSPHRASE_VARIABLE).is_some() {
            return Ok(Some(Self::Environment));
        }
        let credentials = path("CREDENTIALS_DIRECTORY").unwrap_or_default();
        let credential = |name| Some(credentials.join(name)).filter(|path| path.is_file());
        let key = credential("holdfast.key").map(Self::KeyFile);
        Ok(key.or_else(|| credential("holdfast.passphrase").map(Self::PassphraseFile)))
    }

    /// The passphrase or key.
    ///
    /// # Errors
    /// If the place cannot be read, or what is there is none.
    pub fn read(&self) -> Result<Secret, SecretError> {
        let secret = match self {
            Self::KeyFile(path) => Secret::from_key_file(&read_file(path)?),
            Self::PassphraseFile(path) => Secret::from_text(&read_file(path)?),
            Self::Command(command) => Secret::from_text(&output_of(command)?),
            Self::Environment => {
                let words = std::env::var_os(PASSPHRASE_VARIABLE).unwrap_or_default();
                Secret::from_text(words.as_encoded_bytes())
            }
        };
        secret.map_err(|source| SecretError::Unusable {
            place: self.describe(),
            source,
        })
    }

    /// Where it is, for a person.
    pub fn describe(&self) -> String {
        match self {
            Self::KeyFile(path) | Self::PassphraseFile(path) => path.display().to_string(),
            Self::Command(command) => format!("what `{command}` prints"),
            Self::Environment => PASSPHRASE_VARIABLE.to_owned(),
        }
    }
}

/// Reads a file that is for its owner only, or says that it is not.
fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let fault = |source| SecretError::File {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(fault)?;
    let mode = file.metadata().map_err(fault)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(
            path = %path.display(),
            "the key of the repository can be read by other users; set its mode to 0600"
        );
    }
    read_some(file).map_err(fault)
}

fn output_of(command: &str) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let fault = |reason: String| SecretError::Command {
        command: command.to_owned(),
        reason,
    };
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| fault(error.to_string()))?;
    let printed = child.stdout.take().map(read_some);
    let status = child.wait().map_err(|error| fault(error.to_string()))?;
    if !status.success() {
        return Err(fault(status.to_string()));
    }
    let printed = printed.unwrap_or_else(|| Ok(Zeroizing::default()));
    printed.map_err(|error| fault(error.to_string()))
}

/// No more than any key or passphrase has.
fn read_some(reader: impl io::Read) -> io::Result<Zeroizing<Vec<u8>>> {
    // With room for all, so that no copy is left behind by growing.
    let mut content = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX + 1));
    let mut limited = reader.take(SECRET_BYTES_MAX as u64 + 1);
    limited.read_to_end(&mut content)?;
    if content.len() > SECRET_BYTES_MAX {
        let text = "it is longer than any key or passphrase";
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(content)
}

const PASSPHRASE_VARIABLE: &str = "HOLDFAST_PASSPHRASE";
const SECRET_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_at_most_is_named() {
        let path = Path::new("x");
        assert_eq!(KeySource::one_of(None, None, None).unwrap(), None);
        assert_eq!(
            KeySource::one_of(Some(path), None, None).unwrap(),
            Some(KeySource::KeyFile(path.to_owned()))
        );
        let error = KeySource::one_of(Some(path), None, Some("y")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "key file and key command both say where the repository's key is; keep one of them"
        );
    }

    #[test]
    fn a_command_gives_a_key_or_a_passphrase_or_an_error() {
        let read = |command: &str| KeySource::Command(command.to_owned()).read();
        let key = "HFKEY1-";
        assert_eq!(format!("{:?}", read("echo words").unwrap()), "Passphrase");
        for (command, word) in [
            ("exit 3", "exit status: 3"),
            ("true", "what `true` prints"),
            (&format!("echo {key}00"), "prints"),
            ("head -c 5000 /dev/zero", "longer"),
        ] {
            let error = read(command).unwrap_err();
            assert!(error.to_string().contains(word), "{command}: {error}");
        }
    }
}
