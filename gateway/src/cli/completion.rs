//! `holdfast completion`.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Arguments;
use super::output::Results;

#[derive(Debug, clap::Args)]
pub(super) struct CompletionArgs {
    /// The shell
    shell: Shell,
}

pub(super) fn run(arguments: &CompletionArgs) -> Result<()> {
    let mut command = Arguments::command();
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "holdfast", &mut script);
    let mut results = Results::open();
    results
        .write_all(&script)
        .and_then(|()| results.flush())
        .context("cannot write the script to standard output")
}
