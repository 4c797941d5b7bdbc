//! `holdfast token`.

use anyhow::Result;
use serde_json::json;

use crate::api::{TokenBody, TokenMade, TokenView};
use crate::config::Span;
use crate::state::Role;

use super::client::{Client, segment};
use super::output::{Output, Table, time};

#[derive(Debug, clap::Subcommand)]
pub(super) enum TokenVerb {
    /// Make a token and print it, for the only time
    Add {
        /// Who gets it
        name: String,
        /// What it is good for: everything; backups and looking; looking; streams of databases, in and out
        #[arg(long, default_value = "admin")]
        role: Role,
        /// Only for this workload, with the role backup (not even to look) or streams
        #[arg(long)]
        workload: Option<String>,
        /// How long it is good for, such as 90d [default: for ever]
        #[arg(long, value_name = "DURATION")]
        expires_in: Option<Span>,
    },
    /// List tokens, without the secrets
    List,
    /// End a token at once
    Revoke {
        /// The token
        name: String,
    },
}

pub(super) fn run(verb: &TokenVerb, client: &Client, output: &Output) -> Result<()> {
    match verb {
        TokenVerb::Add {
            name,
            role,
            workload,
            expires_in,
        } => {
            let body = TokenBody {
                name: name.clone(),
                role: *role,
                workload: workload.clone(),
                expires_in: *expires_in,
            };
            let made: TokenMade = client.post("/v1/tokens", &body)?;
            super::output::tell(format!(
                "Token {} ({}, {}). It is not shown again: keep it in a file for --token-file.",
                made.view.name,
                role_of(&made.view),
                until(&made.view)
            ));
            output.result(&made, |made| made.token.clone())
        }
        TokenVerb::List => {
            let tokens: Vec<TokenView> = client.get("/v1/tokens")?;
            let none = "There is no token; make one with `holdfast token add NAME`.";
            output.list(&tokens, none, table)
        }
        TokenVerb::Revoke { name } => {
            client.delete(&format!("/v1/tokens/{}", segment(name)))?;
            output.result(&json!({ "name": name, "state": "revoked" }), |_| {
                format!("Revoked {name}: who has it gets no further.")
            })
        }
    }
}

fn table(tokens: &[TokenView]) -> Table {
    let mut table = Table::new(&["TOKEN", "ROLE", "MADE (UTC)", "GOOD"]);
    for token in tokens {
        table.row([
            token.name.clone(),
            role_of(token),
            token.created.as_deref().map(time).unwrap_or_default(),
            until(token),
        ]);
    }
    table
}

fn role_of(token: &TokenView) -> String {
    match &token.workload {
        Some(workload) => format!("{} of {workload} alone", token.role.word()),
        None => token.role.word().to_owned(),
    }
}

fn until(token: &TokenView) -> String {
    match &token.expires {
        None => "for ever".to_owned(),
        Some(at) if token.expired => format!("expired {}", time(at)),
        Some(at) => format!("until {}", time(at)),
    }
}
