//! `holdfast completion`.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Arguments;

#[derive(Debug, clap::Args)]
pub(super) struct CompletionArgs {
    /// The shell
    shell: Shell,
}

pub(super) fn run(arguments: &CompletionArgs) {
    clap_complete::generate(
        arguments.shell,
        &mut Arguments::command(),
        "holdfast",
        &mut std::io::stdout(),
    );
}
