//! `holdfast lock-authority`.

use anyhow::Result;

use crate::api::{AuthorityView, CodeBody};

use super::client::Client;
use super::output::Output;

#[derive(Debug, clap::Subcommand)]
pub(super) enum LockAuthorityVerb {
    /// Make the secret for the one-time codes that lift locks
    Init {
        /// A code of the authority that is replaced
        #[arg(long)]
        code: Option<String>,
    },
}

pub(super) fn run(verb: &LockAuthorityVerb, client: &Client, output: &Output) -> Result<()> {
    let LockAuthorityVerb::Init { code } = verb;
    let made: AuthorityView =
        client.post("/v1/lock-authority", &CodeBody { code: code.clone() })?;
    output.result(&made, |made| {
        format!(
            "Secret: {}\nAddress: {}\nThis is shown once. Enter it in an authenticator app of whoever is to confirm that locks are lifted.",
            made.secret, made.address
        )
    })
}
