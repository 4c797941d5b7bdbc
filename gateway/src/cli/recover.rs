//! `holdfast recover`.

use anyhow::Result;
use serde_json::json;

use crate::api::{RecoveryBody, SealView};
use crate::exports::DiskFormat;
use crate::recovery::{Protocol, SessionMode, SessionState, SessionView};

use super::client::{Client, segment};
use super::output::{Output, Table, size, time};
use super::point_name;

#[derive(Debug, clap::Subcommand)]
pub(super) enum RecoverVerb {
    /// Serve disks of a restore point at once
    Start {
        /// WORKLOAD@SEQUENCE or WORKLOAD@latest
        #[arg(value_parser = point_name)]
        point: String,
        /// The session's name; asking again with the same name gives the same session
        #[arg(long)]
        name: Option<String>,
        /// A disk by number; more than once for several [default: all]
        #[arg(long = "disk", value_name = "N")]
        disks: Vec<usize>,
        /// How it is served [default: nbd, nfs and iscsi]
        #[arg(long = "protocol", value_name = "LIST", value_delimiter = ',')]
        protocols: Vec<Protocol>,
        /// Show the restore point itself and refuse writes
        #[arg(long)]
        read_only: bool,
        /// A peer or network that may come; more than once for several [default: this machine]
        #[arg(long, value_name = "ADDRESS|NETWORK")]
        allow: Vec<String>,
        /// An iSCSI initiator that may log in, * for any characters; more than once for several [default: as configured]
        #[arg(long = "initiator", value_name = "NAME")]
        initiators: Vec<String>,
        /// The formats of the disks' files; all are the same disk [default: raw, over SMB vhdx]
        #[arg(long = "format", value_name = "LIST", value_delimiter = ',')]
        formats: Vec<DiskFormat>,
    },
    /// List recovery sessions
    List,
    /// Show a session with its addresses
    Show {
        /// The session
        session: String,
    },
    /// Make what was written the workload's next restore point, and end the session
    Seal {
        /// The session
        session: String,
    },
    /// Drop what was written, and end the session
    Discard {
        /// The session
        session: String,
    },
    /// End serving and keep what was written; `recover start POINT --name SESSION` goes on
    Stop {
        /// The session
        session: String,
    },
}

pub(super) fn run(verb: &RecoverVerb, client: &Client, output: &Output) -> Result<()> {
    match verb {
        RecoverVerb::Start {
            point,
            name,
            disks,
            protocols,
            read_only,
            allow,
            initiators,
            formats,
        } => {
            let body = RecoveryBody {
                point: point.clone(),
                name: name.clone(),
                disks: disks.clone(),
                read_only: *read_only,
                protocols: protocols.clone(),
                allow: (!allow.is_empty()).then(|| allow.clone()),
                initiators: initiators.clone(),
                formats: formats.clone(),
                files: false,
            };
            let session: SessionView = client.post("/v1/recoveries", &body)?;
            output.result(&session, describe)
        }
        RecoverVerb::List => {
            let sessions: Vec<SessionView> = client.get("/v1/recoveries")?;
            output.list(
                &sessions,
                "There is no recovery session; start one with `holdfast recover start POINT`.",
                table,
            )
        }
        RecoverVerb::Show { session } => {
            let session: SessionView = client.get(&path(session))?;
            output.result(&session, describe)
        }
        RecoverVerb::Seal { session } => {
            let sealed: SealView = client.post(&format!("{}/seal", path(session)), &json!(null))?;
            output.result(&sealed, |sealed| {
                format!(
                    "Sealed {} as {}.\n{}",
                    sealed.session,
                    sealed.point.point,
                    super::point::describe(&sealed.point)
                )
            })
        }
        RecoverVerb::Discard { session } => {
            client.delete(&path(session))?;
            output.result(&json!({ "session": session, "state": "discarded" }), |_| {
                format!("Discarded {session}. Its restore point is unchanged.")
            })
        }
        RecoverVerb::Stop { session } => {
            let stopped: SessionView =
                client.post(&format!("{}/stop", path(session)), &json!(null))?;
            output.result(&stopped, |stopped| {
                let (name, point) = (&stopped.session, &stopped.point);
                format!("Stopped {name}. What was written is kept: `holdfast recover start {point} --name {name}` goes on.")
            })
        }
    }
}

fn path(session: &str) -> String {
    format!("/v1/recoveries/{}", segment(session))
}

fn table(sessions: &[SessionView]) -> Table {
    let mut table = Table::new(&[
        "SESSION",
        "POINT",
        "STATE",
        "MODE",
        ">DISKS",
        "STARTED (UTC)",
        "PEERS",
    ]);
    for session in sessions {
        table.row([
            session.session.clone(),
            session.point.clone(),
            state(session.state).to_owned(),
            mode(session.mode).to_owned(),
            session.disks.len().to_string(),
            time(&session.created),
            session.allow.join(","),
        ]);
    }
    table
}

pub(super) fn describe(session: &SessionView) -> String {
    let (state, mode) = (state(session.state), mode(session.mode));
    let mut text = format!(
        "{}: {state}, {mode}, of {}, for {}\n",
        session.session,
        session.point,
        session.allow.join(", ")
    );
    if let Some(share) = &session.share {
        let password = match &share.password {
            Some(password) => format!("password {password}, which is not shown again"),
            None => "with the password that was shown when the session was started".to_owned(),
        };
        let (path, user) = (&share.path, &share.user);
        text.push_str(&format!("share {path}\n  user {user}, {password}\n"));
    }
    for disk in &session.disks {
        text.push_str(&format!(
            "disk {} ({}, {})\n",
            disk.disk,
            disk.name,
            size(disk.size_bytes)
        ));
        let urls = &disk.urls;
        let single = [
            &urls.nbd,
            &urls.nbds,
            &urls.nbd_unix,
            &urls.nfs,
            &urls.smb,
            &urls.tcmu,
        ];
        for url in single.into_iter().flatten().chain(&urls.iscsi) {
            text.push_str(&format!("  {url}\n"));
        }
        for file in &disk.formats {
            let urls = [&file.nbd, &file.nbd_unix, &file.nfs, &file.smb];
            for url in urls.into_iter().flatten() {
                text.push_str(&format!("  {}: {url}\n", file.format));
            }
        }
    }
    for command in &session.attach {
        text.push_str(&format!(
            "{} ({}):\n  {}\n",
            command.system, command.what, command.command
        ));
    }
    text
}

fn state(state: SessionState) -> &'static str {
    match state {
        SessionState::Starting => "starting",
        SessionState::Active => "active",
        SessionState::Stopped => "stopped",
        SessionState::Sealing => "sealing",
        SessionState::Discarding => "discarding",
    }
}

fn mode(mode: SessionMode) -> &'static str {
    match mode {
        SessionMode::ReadWrite => "read-write",
        SessionMode::ReadOnly => "read-only",
    }
}
