//! The server of shares.

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Core;
use crate::recovery::RecoveryError;

use super::problem::Problem;

/// How the server of shares is, and who uses it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SmbView {
    /// Where it listens.
    pub address: String,
    /// `starting`, `running`, `waiting` (it ended by itself and is started again) or `stopped`.
    pub phase: String,
    /// How often it was started again.
    pub restarts: u64,
    /// How it ended last, if it did by itself.
    pub last_end: Option<String>,
    /// Its shares.
    pub shares: Vec<String>,
    /// Clients that have logged in.
    pub connections: Vec<SmbConnectionView>,
}

/// A client that has logged in.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SmbConnectionView {
    /// The user, whose number is that of the session.
    pub user: String,
    /// From where.
    pub machine: String,
    /// The version of the protocol, such as `SMB3_11`.
    pub dialect: String,
    /// The cipher; none: it is not encrypted.
    pub encryption: Option<String>,
    /// The algorithm by which it is signed.
    pub signing: Option<String>,
}

/// Shows how the server of shares is, and who uses it.
#[utoipa::path(get, path = "/v1/smb", tag = "smb",
    responses((status = 200, body = SmbView), (status = 409, body = Problem)))]
pub(super) async fn show(State(core): State<Arc<Core>>) -> Result<Reply<SmbView>, Problem> {
    core.run(|core| {
        let server = server(core)?;
        let health = server.health();
        let connections = server
            .connections()
            .map_err(|error| Problem::internal(&error))?;
        Ok(Reply(SmbView {
            address: server.settings().reachable().to_string(),
            phase: format!("{:?}", health.phase).to_lowercase(),
            restarts: health.restarts,
            last_end: health.last_end,
            shares: server
                .shares()
                .iter()
                .map(|share| share.name.to_string())
                .collect(),
            connections: connections
                .into_iter()
                .map(SmbConnectionView::from)
                .collect(),
        }))
    })
    .await
}

/// Describes the shares for sambacc, which runs Samba in containers: its configuration format `v0`. Passwords are not
/// in it.
#[utoipa::path(get, path = "/v1/smb/sambacc", tag = "smb",
    responses((status = 200, body = Object), (status = 409, body = Problem)))]
pub(super) async fn sambacc(
    State(core): State<Arc<Core>>,
) -> Result<Reply<serde_json::Value>, Problem> {
    core.run(|core| {
        let server = server(core)?;
        let described = ::smb::description(server.settings(), &server.shares());
        described
            .map(Reply)
            .map_err(|error| Problem::internal(&error))
    })
    .await
}

fn server(core: &Core) -> Result<&::smb::Server, RecoveryError> {
    let server = core.sessions.shares().server();
    server.ok_or(RecoveryError::NotServed("smb"))
}

impl From<::smb::Connection> for SmbConnectionView {
    fn from(connection: ::smb::Connection) -> Self {
        Self {
            user: connection.user,
            machine: connection.machine,
            dialect: connection.dialect,
            encryption: connection.encryption,
            signing: connection.signing,
        }
    }
}
