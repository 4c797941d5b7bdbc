//! `holdfast init`.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use repo::{CreateOptions, Repository};
use serde_json::json;

use super::output::Output;

#[derive(Debug, clap::Args)]
pub(super) struct InitArgs {
    /// A new or empty folder
    directory: PathBuf,
    /// Encrypt what is stored
    #[arg(long)]
    encrypt: bool,
}

pub(super) fn run(arguments: &InitArgs, output: &Output) -> Result<()> {
    let directory = &arguments.directory;
    if arguments.encrypt {
        bail!(
            "this version cannot encrypt; leave --encrypt out, and put the repository on an encrypted file system if it must be"
        );
    }
    if directory.exists() && !directory.is_dir() {
        bail!(
            "{} is not a folder; give a new or empty folder",
            directory.display()
        );
    }
    Repository::create(directory, &CreateOptions::default())?;
    let directory = directory
        .canonicalize()
        .context("cannot look at the new repository")?;
    output.result(&json!({ "repository": directory, "encrypted": false }), |_| {
        format!(
            "Made an empty repository in {0}.\nIt is not encrypted: there is no key to keep.\nRun the daemon: holdfast serve --repository {0}",
            directory.display()
        )
    })
}
