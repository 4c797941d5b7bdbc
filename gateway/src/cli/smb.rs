//! `holdfast smb`.

use anyhow::Result;
use serde_json::Value;

use crate::api::SmbView;

use super::client::Client;
use super::output::Output;

#[derive(Debug, clap::Subcommand)]
pub(super) enum SmbVerb {
    /// Show how the server of shares is, and who uses it
    Status,
    /// Print the shares as sambacc's JSON, for those who run Samba in containers; without passwords
    ExportSambacc,
}

pub(super) fn run(verb: &SmbVerb, client: &Client, output: &Output) -> Result<()> {
    match verb {
        SmbVerb::Status => {
            let view: SmbView = client.get("/v1/smb")?;
            output.result(&view, describe)
        }
        SmbVerb::ExportSambacc => {
            let described: Value = client.get("/v1/smb/sambacc")?;
            output.result(&described, |described| format!("{described:#}"))
        }
    }
}

fn describe(view: &SmbView) -> String {
    let mut text = format!(
        "{} at {}, {} shares",
        view.phase,
        view.address,
        view.shares.len()
    );
    if let Some(end) = &view.last_end {
        text.push_str(&format!(
            "\nstarted again {} times; it ended last: {end}",
            view.restarts
        ));
    }
    for connection in &view.connections {
        let or_not = |algorithm: &Option<String>| match algorithm {
            Some(algorithm) => algorithm.clone(),
            None => "no".to_owned(),
        };
        text.push_str(&format!(
            "\n{} from {}: {}, signed {}, encrypted {}",
            connection.user,
            connection.machine,
            connection.dialect,
            or_not(&connection.signing),
            or_not(&connection.encryption)
        ));
    }
    text
}
