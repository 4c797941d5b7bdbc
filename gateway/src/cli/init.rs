//! `holdfast init`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use repo::{CreateOptions, KdfSettings, NewKeySlot, Repository, Secret};
use serde_json::json;
use zeroize::Zeroizing;

use super::output::Output;
use super::secret::{SecretArgs, give_recovery_key};

#[derive(Debug, clap::Args)]
pub(super) struct InitArgs {
    /// A new or empty folder
    directory: PathBuf,
    /// Encrypt what is stored; asks for a passphrase unless a file or command has it
    #[arg(long)]
    encrypt: bool,
    #[command(flatten)]
    secret: SecretArgs,
    /// Make a key for emergencies, too, and print it or write it to a new FILE
    #[arg(
        long,
        value_name = "FILE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "-",
        requires = "encrypt"
    )]
    recovery_key: Option<PathBuf>,
}

pub(super) fn run(arguments: &InitArgs, output: &Output) -> Result<()> {
    let directory = &arguments.directory;
    if directory.exists() && !directory.is_dir() {
        bail!(
            "{} is not a folder; give a new or empty folder",
            directory.display()
        );
    }
    if arguments.encrypt {
        return create_encrypted(arguments, output);
    }
    let SecretArgs {
        key_file,
        passphrase_file,
        key_command,
    } = &arguments.secret;
    if key_file.is_some() || passphrase_file.is_some() || key_command.is_some() {
        bail!("a key is given but --encrypt is not; give both or neither");
    }
    Repository::create(directory, &CreateOptions::default())?;
    let directory = found(directory)?;
    output.result(&json!({ "repository": directory, "encrypted": false }), |_| {
        format!(
            "Made an empty repository in {0}.\nIt is not encrypted: there is no key to keep.\nRun the daemon: holdfast serve --repository {0}",
            directory.display()
        )
    })
}

fn create_encrypted(arguments: &InitArgs, output: &Output) -> Result<()> {
    let secret = arguments.secret.choose()?;
    let first = if secret.key_text().is_some() {
        "key"
    } else {
        "passphrase"
    };
    let mut key_slots = vec![slot(first, secret)];
    let mut printed = None;
    if let Some(target) = &arguments.recovery_key {
        let key = Secret::random_key()?;
        printed = give_recovery_key(target, &key)?;
        key_slots.push(slot("recovery", key));
    }
    let names: Vec<_> = key_slots.iter().map(|slot| slot.name.clone()).collect();
    Repository::create(&arguments.directory, &CreateOptions { key_slots })?;
    let directory = found(&arguments.directory)?;
    let shown = json!({
        "repository": directory,
        "encrypted": true,
        "key_slots": names,
        "key_file": arguments.secret.key_file,
        "recovery_key": printed.as_ref().map(|text| text.as_str()),
        "recovery_key_file": arguments.recovery_key.as_ref().filter(|_| printed.is_none()),
    });
    output.result(&shown, |_| {
        describe(&directory, first, arguments, printed.as_ref())
    })
}

fn describe(
    directory: &Path,
    first: &str,
    arguments: &InitArgs,
    printed: Option<&Zeroizing<String>>,
) -> String {
    let directory = directory.display();
    let opens = match &arguments.secret.key_file {
        Some(path) => format!("The key in {}", path.display()),
        None => format!("The {first}"),
    };
    let mut text = format!(
        "Made an empty encrypted repository in {directory}.\n{opens} opens it. Keep it in another place, too: without it nobody can read the backups, neither can we.\n"
    );
    match (printed, &arguments.recovery_key) {
        (Some(key), _) => {
            text.push_str("Recovery key, to print and put away; it is not shown again:\n  ");
            text.push_str(key);
            text.push('\n');
        }
        (None, Some(path)) => {
            text.push_str(&format!(
                "The recovery key is in {}: put it away elsewhere.\n",
                path.display()
            ));
        }
        (None, None) => {
            text.push_str("A key for emergencies: holdfast key add recovery --recovery-key\n");
        }
    }
    text.push_str(&format!(
        "Run the daemon: holdfast serve --repository {directory}"
    ));
    match &arguments.secret.key_file {
        Some(path) => text.push_str(&format!(" --key-file {}", path.display())),
        None => text.push_str(
            "\nIt asks for the passphrase; a service takes it from a file or command: see docs/operations/keys.md",
        ),
    }
    text
}

fn slot(name: &str, secret: Secret) -> NewKeySlot {
    NewKeySlot {
        name: name.to_owned(),
        secret,
        kdf: KdfSettings::default(),
    }
}

fn found(directory: &Path) -> Result<PathBuf> {
    directory
        .canonicalize()
        .context("cannot look at the new repository")
}
