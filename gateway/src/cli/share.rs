//! `holdfast share`: the files on the disks of a restore point, for Windows.

use anyhow::Result;

use crate::api::RecoveryBody;
use crate::exports::DiskFormat;
use crate::recovery::{Protocol, SessionView};

use super::client::Client;
use super::output::Output;
use super::{point_name, recover};

#[derive(Debug, clap::Args)]
pub(super) struct ShareArgs {
    /// WORKLOAD@SEQUENCE or WORKLOAD@latest
    #[arg(value_parser = point_name)]
    point: String,
    /// The name of the session and the share; asking again with the same name gives the same one
    #[arg(long)]
    name: Option<String>,
    /// A disk by number; more than once for several [default: all]
    #[arg(long = "disk", value_name = "N")]
    disks: Vec<usize>,
    /// A peer or network that may come; more than once for several [default: this machine]
    #[arg(long, value_name = "ADDRESS|NETWORK")]
    allow: Vec<String>,
    /// The formats of the disks' files beside the files that lie on them [default: vhdx]
    #[arg(long = "format", value_name = "LIST", value_delimiter = ',')]
    formats: Vec<DiskFormat>,
}

pub(super) fn run(arguments: &ShareArgs, client: &Client, output: &Output) -> Result<()> {
    let body = RecoveryBody {
        point: arguments.point.clone(),
        name: arguments.name.clone(),
        disks: arguments.disks.clone(),
        read_only: true,
        protocols: vec![Protocol::Smb],
        allow: (!arguments.allow.is_empty()).then(|| arguments.allow.clone()),
        initiators: Vec::new(),
        formats: arguments.formats.clone(),
        files: true,
    };
    let session: SessionView = client.post("/v1/recoveries", &body)?;
    output.result(&session, |session| {
        let name = &session.session;
        let text = recover::describe(session);
        format!("{text}`holdfast recover discard {name}` ends it.")
    })
}
