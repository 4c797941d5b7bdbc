//! `holdfast config`.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::api::ImportBody;
use crate::transfer::{Action, Document, Step};

use super::client::Client;
use super::output::{Output, Table};

#[derive(Debug, clap::Subcommand)]
pub(super) enum ConfigVerb {
    /// Write the daemon's configuration into one file: settings, sessions, who has a token; no secrets
    Export {
        /// A new file
        file: PathBuf,
    },
    /// Make what an exported configuration has and this daemon has not
    Import {
        /// What `config export` wrote
        file: PathBuf,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Print the settings of an exported configuration, for `serve --config`
    Settings {
        /// What `config export` wrote
        file: PathBuf,
    },
}

pub(super) fn run(
    verb: &ConfigVerb,
    connect: impl FnOnce() -> Result<Client>,
    output: &Output,
) -> Result<()> {
    match verb {
        ConfigVerb::Export { file } => {
            let document: Document = connect()?.get("/v1/config")?;
            write_new(file, &document)?;
            output.result(&document, |document| {
                format!(
                    "Wrote {}: settings, {} tokens, {} sessions. No secret is in it.",
                    file.display(),
                    document.tokens.len(),
                    document.sessions.len()
                )
            })
        }
        ConfigVerb::Import { file, dry_run } => {
            let body = ImportBody {
                document: read(file)?,
                dry_run: *dry_run,
            };
            let steps: Vec<Step> = connect()?.post("/v1/config", &body)?;
            let none = "The daemon has all that is in the file.";
            output.list(&steps, none, table)?;
            let failed = steps.iter().filter(|step| step.action == Action::Failed);
            match failed.count() {
                0 => Ok(()),
                count => bail!("{count} of {} could not be made; see above", steps.len()),
            }
        }
        ConfigVerb::Settings { file } => {
            let document = read(file)?;
            let text = toml::to_string_pretty(&document.settings).context("cannot write TOML")?;
            output.result(&document.settings, |_| text)
        }
    }
}

fn write_new(file: &Path, document: &Document) -> Result<()> {
    let text = serde_json::to_vec_pretty(document).context("cannot write the document")?;
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut file| {
            file.write_all(&text)?;
            file.write_all(b"\n")?;
            file.sync_all()
        })
        .with_context(|| {
            format!(
                "cannot write {}; give the path of a new file",
                file.display()
            )
        })
}

fn read(file: &Path) -> Result<Document> {
    let text = std::fs::read(file)
        .with_context(|| format!("cannot read {}; check the path", file.display()))?;
    let document: Document = serde_json::from_slice(&text).with_context(|| {
        format!(
            "{} is no exported configuration; give a file that `holdfast config export` made",
            file.display()
        )
    })?;
    document.check()?;
    Ok(document)
}

fn table(steps: &[Step]) -> Table {
    let mut table = Table::new(&["WHAT", "", "DETAIL"]);
    for step in steps {
        let action = match step.action {
            Action::Same => "same",
            Action::Add => "add",
            Action::Differs => "differs",
            Action::Failed => "FAILED",
        };
        let detail = match &step.token {
            Some(token) => format!("{}: {token}", step.detail),
            None => step.detail.clone(),
        };
        table.row([step.subject.clone(), action.to_owned(), detail]);
    }
    table
}
