//! `holdfast alert`.

use anyhow::Result;
use serde_json::json;

use crate::alerts::{Alert, Severity};

use super::client::Client;
use super::output::{Output, Table, time};

#[derive(Debug, clap::Subcommand)]
pub(super) enum AlertVerb {
    /// List what needs a person's attention
    List,
    /// Drop an alert that was seen to
    #[command(arg_required_else_help = true)]
    Dismiss {
        /// Its number
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        alert: Option<u64>,
        /// Drop all of them
        #[arg(long)]
        all: bool,
    },
}

pub(super) fn run(verb: &AlertVerb, client: &Client, output: &Output) -> Result<()> {
    match verb {
        AlertVerb::List => {
            let alerts: Vec<Alert> = client.get("/v1/alerts")?;
            output.list(&alerts, "There is no alert.", table)
        }
        AlertVerb::Dismiss {
            alert: Some(alert), ..
        } => {
            client.delete(&format!("/v1/alerts/{alert}"))?;
            output.result(&json!({ "dismissed": alert }), |_| {
                format!("Dismissed alert {alert}.")
            })
        }
        AlertVerb::Dismiss { alert: None, .. } => {
            client.delete("/v1/alerts")?;
            output.result(&json!({ "dismissed": "all" }), |_| {
                "Dismissed all alerts.".to_owned()
            })
        }
    }
}

fn table(alerts: &[Alert]) -> Table {
    let mut table = Table::new(&[">ALERT", "LEVEL", "LAST (UTC)", ">TIMES", "WHAT"]);
    for alert in alerts {
        table.row([
            alert.id.to_string(),
            level(alert.severity).to_owned(),
            time(&alert.last),
            alert.count.to_string(),
            alert.message.clone(),
        ]);
        table.row([
            String::new(),
            String::new(),
            String::new(),
            String::new(),
            format!("-> {}", alert.mend),
        ]);
    }
    table
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Warning => "warning",
        Severity::Problem => "problem",
    }
}
