//! Passphrases and keys on the command line: from files and commands, or asked for without showing them.

use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use repo::Secret;
use zeroize::Zeroizing;

use crate::secrets::KeySource;

/// Where the secret is that opens a repository.
#[derive(Debug, Default, clap::Args)]
pub(super) struct SecretArgs {
    /// A file with the key
    #[arg(long, value_name = "FILE", conflicts_with_all = ["passphrase_file", "key_command"])]
    pub(super) key_file: Option<PathBuf>,
    /// A file with the passphrase
    #[arg(long, value_name = "FILE", conflicts_with = "key_command")]
    pub(super) passphrase_file: Option<PathBuf>,
    /// A command for the shell that prints the key or passphrase
    #[arg(long, value_name = "COMMAND")]
    pub(super) key_command: Option<String>,
}

impl SecretArgs {
    fn source(&self) -> Result<Option<KeySource>> {
        Ok(KeySource::one_of(
            self.key_file.as_deref(),
            self.passphrase_file.as_deref(),
            self.key_command.as_deref(),
        )?)
    }

    /// The secret that the arguments or the environment give, if they do.
    pub(super) fn given(&self) -> Result<Option<Secret>> {
        let source = match self.source()? {
            Some(source) => Some(source),
            None => KeySource::surroundings()?,
        };
        Ok(source.map(|source| source.read()).transpose()?)
    }

    /// The secret of a repository that is there: as the arguments say, or the environment, or asked for.
    pub(super) fn open(&self) -> Result<Secret> {
        match self.given()? {
            Some(secret) => Ok(secret),
            None => ask("Passphrase: "),
        }
    }

    /// As the arguments say, or asked for. The environment is the daemon's, not that of whoever changes a slot.
    pub(super) fn open_or_ask(&self, prompt: &str) -> Result<Secret> {
        match self.source()? {
            Some(source) => Ok(source.read()?),
            None => ask(prompt),
        }
    }

    /// The secret of a repository to be made. A key file that is not there is made.
    pub(super) fn choose(&self) -> Result<Secret> {
        if let Some(path) = self.key_file.as_deref().filter(|path| !path.exists()) {
            let key = Secret::random_key()?;
            write_key(path, &key)?;
            return Ok(key);
        }
        match self.source()? {
            Some(source) => Ok(source.read()?),
            None => ask_twice(),
        }
    }
}

/// Asks for a passphrase at the terminal.
pub(super) fn ask(prompt: &str) -> Result<Secret> {
    if !std::io::stdin().is_terminal() {
        bail!(
            "there is no terminal to ask for the passphrase; give --passphrase-file, --key-file or --key-command"
        );
    }
    let words = rpassword::prompt_password(prompt).context("cannot ask for the passphrase")?;
    let words = Zeroizing::new(words);
    Ok(Secret::from_text(words.as_bytes())?)
}

/// Asks for a new passphrase, twice.
pub(super) fn ask_twice() -> Result<Secret> {
    if !std::io::stdin().is_terminal() {
        bail!("there is no terminal to ask for a new passphrase; give it in a file, or a key file");
    }
    let ask = |prompt: &str| -> Result<Zeroizing<String>> {
        let words = rpassword::prompt_password(prompt).context("cannot ask for the passphrase")?;
        Ok(Zeroizing::new(words))
    };
    let words = ask("New passphrase: ")?;
    if *words != *ask("The same again: ")? {
        bail!("the two are not the same; nothing was done");
    }
    Ok(Secret::from_text(words.as_bytes())?)
}

/// Writes a key into a new file that only its owner may read.
pub(super) fn write_key(path: &Path, key: &Secret) -> Result<()> {
    let text = key.key_text().context("a passphrase is not written down")?;
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write the key to the new file {}", path.display()))
}

/// Where a recovery key goes: `-` for the terminal, or a new file.
pub(super) fn give_recovery_key(target: &Path, key: &Secret) -> Result<Option<Zeroizing<String>>> {
    if target == Path::new("-") {
        return Ok(key.key_text());
    }
    write_key(target, key)?;
    Ok(None)
}
