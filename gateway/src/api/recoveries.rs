//! Recovery sessions.

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Core;
use crate::config::Peers;
use crate::exports::DiskFormat;
use crate::recovery::{Protocol, RecoveryError, SessionRecord, SessionView, StartRequest};

use super::body::Json;
use super::points::PointView;
use super::problem::Problem;

/// A session to start.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RecoveryBody {
    /// `WORKLOAD@SEQUENCE` or `WORKLOAD@latest`.
    pub point: String,
    /// A name. Asking again with the same name and properties gives the same session.
    pub name: Option<String>,
    /// Disks by number; empty: all.
    pub disks: Vec<usize>,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Protocols; empty: all but `tcmu` and `smb`.
    pub protocols: Vec<Protocol>,
    /// Addresses and networks of peers; none: as configured, which is loopback only unless changed.
    pub allow: Option<Vec<String>>,
    /// Names of iSCSI initiators, with `*` and `?` for any characters; empty: as configured.
    pub initiators: Vec<String>,
    /// Formats of the files that NFS, SMB and NBD show; empty: raw, and VHDX for SMB.
    pub formats: Vec<DiskFormat>,
    /// Whether the share shows what lies on the disks, with the workload's other points as earlier versions. For a
    /// session that is read-only and served over `smb` alone.
    pub files: bool,
}

/// What sealing made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SealView {
    /// The session, which has ended.
    pub session: String,
    /// The new restore point.
    pub point: PointView,
}

/// Lists all sessions by name.
#[utoipa::path(get, path = "/v1/recoveries", tag = "recoveries", responses((status = 200, body = Vec<SessionView>)))]
pub(super) async fn list(State(core): State<Arc<Core>>) -> Reply<Vec<SessionView>> {
    Reply(
        core.sessions
            .list()
            .iter()
            .map(|record| view(&core, record))
            .collect(),
    )
}

/// Starts a session: disks of a restore point are served at once. No data moves.
#[utoipa::path(post, path = "/v1/recoveries", tag = "recoveries", request_body = RecoveryBody,
    responses((status = 201, body = SessionView), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn start(
    State(core): State<Arc<Core>>,
    Json(body): Json<RecoveryBody>,
) -> Result<(StatusCode, Reply<SessionView>), Problem> {
    let allow = body.allow.map(|texts| Peers::parse(&texts)).transpose();
    let request = StartRequest {
        point: body.point,
        name: body.name,
        disks: body.disks,
        read_only: body.read_only,
        protocols: body.protocols,
        allow: allow.map_err(|error| Problem::bad_request(error.to_string()))?,
        initiators: body.initiators,
        formats: body.formats,
        files: body.files,
    };
    let record = core.run(move |core| core.sessions.start(&request)).await?;
    let mut view = view(&core, &record);
    if let Some(share) = &mut view.share {
        let password = core.sessions.take_password(&record.name);
        share.password = password.map(|password| password.reveal().to_owned());
    }
    Ok((StatusCode::CREATED, Reply(view)))
}

/// Shows a session.
#[utoipa::path(get, path = "/v1/recoveries/{session}", tag = "recoveries", params(("session" = String, Path)),
    responses((status = 200, body = SessionView), (status = 404, body = Problem)))]
pub(super) async fn show(
    State(core): State<Arc<Core>>,
    Path(session): Path<String>,
) -> Result<Reply<SessionView>, Problem> {
    Ok(Reply(view(&core, &core.sessions.find(&session)?)))
}

/// Ends serving and keeps what was written; starting a session of that name serves it again.
#[utoipa::path(post, path = "/v1/recoveries/{session}/stop", tag = "recoveries", params(("session" = String, Path)),
    responses((status = 200, body = SessionView), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn stop(
    State(core): State<Arc<Core>>,
    Path(session): Path<String>,
) -> Result<Reply<SessionView>, Problem> {
    let record = core.run(move |core| core.sessions.stop(&session)).await?;
    Ok(Reply(view(&core, &record)))
}

/// Ends serving and drops what was written. The restore point is not touched.
#[utoipa::path(delete, path = "/v1/recoveries/{session}", tag = "recoveries", params(("session" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn discard(
    State(core): State<Arc<Core>>,
    Path(session): Path<String>,
) -> Result<StatusCode, Problem> {
    core.run(move |core| core.sessions.discard(&session))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends serving and makes what was written the workload's next restore point.
#[utoipa::path(post, path = "/v1/recoveries/{session}/seal", tag = "recoveries", params(("session" = String, Path)),
    responses((status = 201, body = SealView), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn seal(
    State(core): State<Arc<Core>>,
    Path(session): Path<String>,
) -> Result<(StatusCode, Reply<SealView>), Problem> {
    let name = session.clone();
    let sealed = core
        .run_long(move |core| {
            let point = core.sessions.seal(&name)?;
            Ok::<_, RecoveryError>(PointView::new(&core.repository, &point))
        })
        .await;
    let point = sealed.map_err(|error| Problem::internal(&error))??;
    Ok((StatusCode::CREATED, Reply(SealView { session, point })))
}

fn view(core: &Core, record: &SessionRecord) -> SessionView {
    SessionView::new(
        record,
        &core.addresses,
        &core.sessions.backstores(&record.name),
    )
}
