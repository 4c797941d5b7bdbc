//! `holdfast key`: the slots of an encrypted repository, through the daemon or without one.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use repo::{KdfSettings, KeySlots, NewKeySlot, Repository, Secret};
use serde_json::json;

use crate::api::{ChangeKeySlotBody, KeySlotView, NewKeySlotBody};
use crate::secrets::KeySource;

use super::client::{Client, segment};
use super::output::{Output, Table, time};
use super::secret::{SecretArgs, ask_twice, give_recovery_key};

#[derive(Debug, clap::Args)]
pub(super) struct KeyArgs {
    #[command(subcommand)]
    verb: KeyVerb,
    /// Work on the repository in this folder, without a daemon
    #[arg(long, global = true, value_name = "DIR")]
    offline: Option<PathBuf>,
    #[command(flatten)]
    secret: GlobalSecretArgs,
}

/// What opens the repository.
#[derive(Debug, clap::Args)]
struct GlobalSecretArgs {
    /// A file with the key that opens the repository now
    #[arg(long, global = true, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// A file with the passphrase that opens it now
    #[arg(long, global = true, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// A command for the shell that prints either
    #[arg(long, global = true, value_name = "COMMAND")]
    key_command: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
enum KeyVerb {
    /// List key slots
    List,
    /// Add a key slot; asks for a passphrase unless one of the options is given
    Add {
        /// Its name
        slot: String,
        #[command(flatten)]
        new: NewSecretArgs,
        /// Make a random key, and print it or write it to a new FILE
        #[arg(
            long,
            value_name = "FILE",
            num_args = 0..=1,
            require_equals = true,
            default_missing_value = "-",
            conflicts_with_all = ["new_passphrase_file", "new_key_file"]
        )]
        recovery_key: Option<PathBuf>,
    },
    /// Remove a key slot, unless it is the last
    Remove {
        /// Its name
        slot: String,
        /// A one-time code of the lock authority, while a restore point is locked
        #[arg(long)]
        code: Option<String>,
    },
    /// Give a key slot another passphrase; nothing that is stored is written again
    ChangePassphrase {
        /// Its name
        #[arg(default_value = "passphrase")]
        slot: String,
        #[command(flatten)]
        new: NewSecretArgs,
        /// A one-time code of the lock authority, while a restore point is locked
        #[arg(long)]
        code: Option<String>,
    },
}

/// Where a new secret is.
#[derive(Debug, clap::Args)]
struct NewSecretArgs {
    /// A file with the new passphrase
    #[arg(long, value_name = "FILE", conflicts_with = "new_key_file")]
    new_passphrase_file: Option<PathBuf>,
    /// A file with the new key
    #[arg(long, value_name = "FILE")]
    new_key_file: Option<PathBuf>,
}

impl NewSecretArgs {
    fn read(&self) -> Result<Secret> {
        let (key, passphrase) = (
            self.new_key_file.as_deref(),
            self.new_passphrase_file.as_deref(),
        );
        match KeySource::one_of(key, passphrase, None)? {
            Some(source) => Ok(source.read()?),
            None => ask_twice(),
        }
    }
}

/// The slots, behind the daemon or on the disk.
enum Slots {
    Daemon(Client),
    Offline(Box<KeySlots>),
}

pub(super) fn run(
    arguments: &KeyArgs,
    connect: impl FnOnce() -> Result<Client>,
    output: &Output,
) -> Result<()> {
    let secret = arguments.secret.arguments();
    let mut opened = None;
    let slots = match &arguments.offline {
        None => Slots::Daemon(connect()?),
        Some(root) => {
            if !Repository::is_encrypted_at(root)? {
                bail!("{} is not encrypted and has no key slots", root.display());
            }
            let secret = opened.insert(secret.open()?);
            Slots::Offline(Box::new(Repository::open_key_slots(root, secret)?))
        }
    };
    match &arguments.verb {
        KeyVerb::List => {
            let none = "The repository is not encrypted: it has no key slots.";
            output.list(&slots.list()?, none, table)
        }
        KeyVerb::Add {
            slot,
            new,
            recovery_key,
        } => add(&slots, slot, new, recovery_key.as_deref(), output),
        KeyVerb::Remove { slot, code } => {
            slots.remove(slot, code.as_deref())?;
            output.result(&json!({ "removed": slot }), |_| {
                format!(
                    "Removed key slot {slot}. Copies of the repository made before still open with it."
                )
            })
        }
        KeyVerb::ChangePassphrase { slot, new, code } => {
            let old = match opened {
                Some(old) => old,
                None => secret.open_or_ask("Passphrase now: ")?,
            };
            let changed = slots.change(slot, &old, &new.read()?, code.as_deref())?;
            output.result(&changed, |slot| {
                format!(
                    "Key slot {} opens with the new {} from now on.",
                    slot.slot, slot.kind
                )
            })
        }
    }
}

fn add(
    slots: &Slots,
    slot: &str,
    new: &NewSecretArgs,
    recovery_key: Option<&Path>,
    output: &Output,
) -> Result<()> {
    let Some(target) = recovery_key else {
        let made = slots.add(slot, &new.read()?)?;
        return output.result(&made, |made| {
            format!("Key slot {} opens the repository, too.", made.slot)
        });
    };
    let key = Secret::random_key()?;
    // Written down before it counts: a key that nobody has must not be a slot.
    let printed = give_recovery_key(target, &key)?;
    let made = slots.add(slot, &key)?;
    let printed = printed.as_ref().map(|text| text.as_str());
    let file = printed.is_none().then_some(target);
    let shown = json!({
        "slot": made.slot,
        "kind": made.kind,
        "created": made.created,
        "recovery_key": printed,
        "recovery_key_file": file,
    });
    output.result(&shown, |_| match printed {
        Some(key) => format!(
            "Key slot {} opens with this key. Print it and put it away; it is not shown again:\n  {key}",
            made.slot
        ),
        None => format!(
            "Key slot {} opens with the key in {}. Put it away elsewhere.",
            made.slot,
            target.display()
        ),
    })
}

impl GlobalSecretArgs {
    fn arguments(&self) -> SecretArgs {
        SecretArgs {
            key_file: self.key_file.clone(),
            passphrase_file: self.passphrase_file.clone(),
            key_command: self.key_command.clone(),
        }
    }
}

impl Slots {
    fn list(&self) -> Result<Vec<KeySlotView>> {
        match self {
            Self::Daemon(client) => client.get("/v1/keys"),
            Self::Offline(slots) => Ok(slots.list()?.iter().map(KeySlotView::new).collect()),
        }
    }

    fn add(&self, slot: &str, secret: &Secret) -> Result<KeySlotView> {
        match self {
            Self::Daemon(client) => {
                let body = NewKeySlotBody {
                    slot: slot.to_owned(),
                    secret: secret.text().to_string(),
                };
                client.post("/v1/keys", &body)
            }
            Self::Offline(slots) => Ok(KeySlotView::new(&slots.add(&new_slot(slot, secret))?)),
        }
    }

    fn change(
        &self,
        slot: &str,
        old: &Secret,
        new: &Secret,
        code: Option<&str>,
    ) -> Result<KeySlotView> {
        match self {
            Self::Daemon(client) => {
                let body = ChangeKeySlotBody {
                    old_secret: old.text().to_string(),
                    secret: new.text().to_string(),
                    code: code.map(ToOwned::to_owned),
                };
                client.put(&format!("/v1/keys/{}", segment(slot)), &body)
            }
            Self::Offline(slots) => {
                if !slots.opens(slot, old)? {
                    bail!("this passphrase or key does not open key slot {slot}");
                }
                let slot = slots.replace(&new_slot(slot, new), None)?;
                Ok(KeySlotView::new(&slot))
            }
        }
    }

    fn remove(&self, slot: &str, code: Option<&str>) -> Result<()> {
        match self {
            Self::Daemon(client) => {
                let code = code.map_or_else(String::new, |code| format!("?code={}", segment(code)));
                client.delete(&format!("/v1/keys/{}{code}", segment(slot)))
            }
            Self::Offline(slots) => Ok(slots.remove(slot, None)?),
        }
    }
}

fn new_slot(name: &str, secret: &Secret) -> NewKeySlot {
    NewKeySlot {
        name: name.to_owned(),
        secret: secret.clone(),
        kdf: KdfSettings::default(),
    }
}

fn table(slots: &[KeySlotView]) -> Table {
    let mut table = Table::new(&["SLOT", "OPENS WITH", "MADE (UTC)"]);
    for slot in slots {
        table.row([slot.slot.clone(), slot.kind.clone(), time(&slot.created)]);
    }
    table
}
