//! Backups: begin, send each disk, commit.

use std::sync::Arc;

use axum::Extension;
use axum::Json as Reply;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use repo::WorkloadName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Core;
use crate::backups::{BackupBase, BackupError, BeginRequest, ImageState, OpenBackup, Receiver};
use crate::framing::{Decoder, Encoder, Frame};

use super::access::{Reach, out_of_reach};
use super::body::Json;
use super::points::PointView;
use super::problem::Problem;

/// What a client wants to back up.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BeginBody {
    /// The workload: 1 to 128 letters, digits, `.`, `_` or `-`.
    pub workload: String,
    /// Its disks.
    pub images: Vec<ImageBody>,
    /// What lies below what will be sent.
    #[serde(default)]
    pub base: BaseChoice,
    /// With `newest`: refuse unless the newest point has this number, because the list of changes counts from it.
    #[serde(default)]
    pub since: Option<u64>,
    /// What the source says of the machine; kept with the point.
    #[serde(default)]
    pub configuration: serde_json::Value,
}

/// A disk to be backed up.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageBody {
    /// Its name: the same in each backup of the workload.
    pub name: String,
    /// Capacity, a multiple of 512.
    pub size_bytes: u64,
}

/// What lies below what is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BaseChoice {
    /// Zeroes: what is not sent is zero.
    Nothing,
    /// The workload's newest point, if there is one: what is not sent stays as it is there.
    #[default]
    Newest,
}

/// A backup that has begun.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct BackupBegun {
    /// Its name for the following requests.
    #[schema(value_type = String)]
    pub backup: Uuid,
    /// The point below, if there is one.
    pub parent: Option<String>,
    /// The disks of that point.
    #[serde(default)]
    pub parent_images: Vec<ImageBody>,
}

/// A backup under way.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct BackupView {
    /// Its name.
    #[schema(value_type = String)]
    pub backup: Uuid,
    /// The workload.
    pub workload: String,
    /// The point below, if there is one.
    pub parent: Option<String>,
    /// Its disks.
    pub images: Vec<ImageView>,
}

/// A disk of a backup under way.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ImageView {
    /// Its name.
    pub name: String,
    /// Capacity.
    pub size_bytes: u64,
    /// Everything before this byte has arrived.
    pub progress_bytes: u64,
    /// `waiting`, `running`, `done` or `failed`.
    pub state: String,
}

/// A file that the daemon shall read.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HandOverBody {
    /// The name under which the open file was handed over.
    #[schema(value_type = String)]
    pub descriptor: Uuid,
    /// What to read, in ascending order; none: everything.
    #[serde(default)]
    pub ranges: Option<Vec<RangeBody>>,
    /// What to leave out, in ascending order, as free space: it reads as zeroes and is recorded as unknown.
    #[serde(default)]
    pub excluded: Vec<RangeBody>,
}

/// A stretch of a disk.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RangeBody {
    /// First byte, a multiple of 512.
    pub offset: u64,
    /// Bytes, a multiple of 512.
    pub length: u64,
}

/// Lists backups under way.
#[utoipa::path(get, path = "/v1/backups", tag = "backups", responses((status = 200, body = Vec<BackupView>)))]
pub(super) async fn list(State(core): State<Arc<Core>>) -> Reply<Vec<BackupView>> {
    Reply(
        core.backups
            .list()
            .iter()
            .map(|backup| view(backup))
            .collect(),
    )
}

/// Begins a backup. Nothing of it is visible before the commit.
#[utoipa::path(post, path = "/v1/backups", tag = "backups", request_body = BeginBody,
    responses((status = 201, body = BackupBegun), (status = 400, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn begin(
    State(core): State<Arc<Core>>,
    Extension(reach): Extension<Reach>,
    Json(body): Json<BeginBody>,
) -> Result<(StatusCode, Reply<BackupBegun>), Problem> {
    let workload = WorkloadName::parse(&body.workload)?;
    if !reach.covers(&workload) {
        return Err(out_of_reach(&reach));
    }
    let base = match (body.base, body.since) {
        (BaseChoice::Nothing, None) => BackupBase::Nothing,
        (BaseChoice::Nothing, Some(_)) => {
            return Err(Problem::bad_request("`since` needs the base `newest`"));
        }
        (BaseChoice::Newest, None) => BackupBase::Newest,
        (BaseChoice::Newest, Some(sequence)) => BackupBase::Exactly(sequence),
    };
    let request = BeginRequest {
        workload,
        images: body
            .images
            .into_iter()
            .map(|image| (image.name, image.size_bytes))
            .collect(),
        base,
        configuration: body.configuration,
    };
    let backup = core.run(move |core| core.backups.begin(request)).await?;
    let parent = backup.parent.as_ref().map(|parent| parent.name.to_string());
    let below = backup.parent.iter().flat_map(|parent| &parent.images);
    let parent_images = below.map(|image| ImageBody {
        name: image.name.clone(),
        size_bytes: image.size_bytes,
    });
    Ok((
        StatusCode::CREATED,
        Reply(BackupBegun {
            backup: backup.id,
            parent,
            parent_images: parent_images.collect(),
        }),
    ))
}

/// Shows how far a backup is.
#[utoipa::path(get, path = "/v1/backups/{backup}", tag = "backups", params(("backup" = String, Path)),
    responses((status = 200, body = BackupView), (status = 404, body = Problem)))]
pub(super) async fn show(
    State(core): State<Arc<Core>>,
    Path(backup): Path<String>,
) -> Result<Reply<BackupView>, Problem> {
    Ok(Reply(view(&*core.backups.find(parse_id(&backup)?)?)))
}

/// Says what was left out of a disk in the point below, as a body of excluded records (docs/api/framing.md). Of that, what
/// is in use now must be sent, whether it changed or not.
#[utoipa::path(get, path = "/v1/backups/{backup}/images/{image}/excluded", tag = "backups",
    params(("backup" = String, Path), ("image" = usize, Path)),
    responses((status = 200, content_type = "application/vnd.holdfast.extents", body = Vec<u8>), (status = 404, body = Problem)))]
pub(super) async fn excluded(
    State(core): State<Arc<Core>>,
    Path((backup, image)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let backup = core.backups.find(parse_id(&backup)?)?;
    let number = parse_number(&image)?;
    let body = core.run(move |core| {
        let excluded = core.backups.excluded_below(&backup, number)?;
        let mut encoder = Encoder::default();
        let mut body = Vec::new();
        Encoder::start(&mut body);
        for range in excluded.ranges() {
            encoder.excluded(range.start, range.end - range.start, &mut body);
        }
        encoder.end(&mut body);
        Ok::<_, BackupError>(body)
    });
    let body = body.await?;
    Ok((
        [(header::CONTENT_TYPE, "application/vnd.holdfast.extents")],
        body,
    )
        .into_response())
}

/// Takes one disk as a stream of extents in ascending order (docs/api/framing.md). What is not sent stays as in the
/// base. A body that is cut is noticed, and the backup cannot be committed then.
#[utoipa::path(put, path = "/v1/backups/{backup}/images/{image}/extents", tag = "backups",
    params(("backup" = String, Path), ("image" = usize, Path)),
    request_body(content = Vec<u8>, content_type = "application/vnd.holdfast.extents"),
    responses((status = 204), (status = 400, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn extents(
    State(core): State<Arc<Core>>,
    Path((backup, image)): Path<(String, String)>,
    body: Body,
) -> Result<StatusCode, Problem> {
    let backup = core.backups.find(parse_id(&backup)?)?;
    let number = parse_number(&image)?;
    let receiver = core.run(move |_| backup.receive(number)).await?;
    receive_body(&core, receiver, body).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Reads one disk from a file that was handed over through the control socket.
#[utoipa::path(post, path = "/v1/backups/{backup}/images/{image}/file", tag = "backups",
    params(("backup" = String, Path), ("image" = usize, Path)), request_body = HandOverBody,
    responses((status = 204), (status = 400, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn file(
    State(core): State<Arc<Core>>,
    Path((backup, image)): Path<(String, String)>,
    Json(body): Json<HandOverBody>,
) -> Result<StatusCode, Problem> {
    let backup = core.backups.find(parse_id(&backup)?)?;
    let number = parse_number(&image)?;
    let file = core
        .descriptors
        .find(body.descriptor)
        .ok_or_else(no_descriptor)?;
    let done = core.run_long(move |_| -> Result<(), Problem> {
        let mut receiver = backup.receive(number)?;
        let all = RangeBody {
            offset: 0,
            length: receiver.size_bytes(),
        };
        let ranges = body.ranges.unwrap_or_else(|| vec![all]);
        let plain = |ranges: &[RangeBody]| -> Vec<_> {
            let plain = ranges.iter();
            plain
                .map(|range| range.offset..range.offset.saturating_add(range.length))
                .collect()
        };
        receiver.copy_file(&file, &plain(&ranges), &plain(&body.excluded))?;
        Ok(receiver.finish()?)
    });
    done.await.map_err(|error| Problem::internal(&error))??;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes the backup a restore point, in one step that is durable when this answers.
#[utoipa::path(post, path = "/v1/backups/{backup}/commit", tag = "backups", params(("backup" = String, Path)),
    responses((status = 201, body = PointView), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn commit(
    State(core): State<Arc<Core>>,
    Path(backup): Path<String>,
) -> Result<(StatusCode, Reply<PointView>), Problem> {
    let id = parse_id(&backup)?;
    let commit = move |core: &Core| -> Result<PointView, Problem> {
        let point = core.backups.commit(id)?;
        Ok(PointView::new(&core.repository, &point))
    };
    let point = core.run(commit).await?;
    Ok((StatusCode::CREATED, Reply(point)))
}

/// Drops the backup. Nothing of it was ever visible.
#[utoipa::path(delete, path = "/v1/backups/{backup}", tag = "backups", params(("backup" = String, Path)),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn abort(
    State(core): State<Arc<Core>>,
    Path(backup): Path<String>,
) -> Result<StatusCode, Problem> {
    let id = parse_id(&backup)?;
    core.run(move |core| core.backups.abort(id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Feeds a body to a disk; each piece crosses to the pool once.
async fn receive_body(core: &Arc<Core>, mut receiver: Receiver, body: Body) -> Result<(), Problem> {
    let wait = core.config.api.read_timeout.duration();
    let mut body = body;
    let mut decoder = Decoder::new();
    loop {
        let next = std::future::poll_fn(|context| {
            use hyper::body::Body as _;
            std::pin::Pin::new(&mut body).poll_frame(context)
        });
        let piece = tokio::time::timeout(wait, next).await.map_err(|_| {
            let detail = "the next piece of the body did not come in time (api.read_timeout)";
            Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", detail)
        })?;
        let Some(piece) = piece else { break };
        let piece = piece.map_err(|_| Problem::bad_request("the body was cut"))?;
        let Ok(data) = piece.into_data() else {
            continue;
        };
        decoder.push(&data);
        let mut frames = Vec::new();
        while let Some(frame) = decoder.next_frame()? {
            frames.push(frame);
        }
        if !frames.is_empty() {
            receiver = core.run(move |_| write(receiver, frames)).await?;
        }
    }
    decoder.finish()?;
    core.run(move |_| receiver.finish()).await?;
    Ok(())
}

fn write(mut receiver: Receiver, frames: Vec<Frame>) -> Result<Receiver, BackupError> {
    for frame in frames {
        match frame {
            Frame::Data { offset, data } => receiver.write(offset, data)?,
            Frame::Zero { offset, length } => receiver.write_zeroes(offset, length)?,
            Frame::Excluded { offset, length } => receiver.exclude(offset, length)?,
            Frame::End => {}
        }
    }
    Ok(receiver)
}

fn view(backup: &OpenBackup) -> BackupView {
    let images = backup.images.iter().map(|image| ImageView {
        name: image.name.clone(),
        size_bytes: image.size_bytes,
        progress_bytes: image.progress_bytes(),
        state: match image.state() {
            ImageState::Waiting => "waiting",
            ImageState::Running => "running",
            ImageState::Done => "done",
            ImageState::Failed => "failed",
        }
        .to_owned(),
    });
    BackupView {
        backup: backup.id,
        workload: backup.workload.to_string(),
        parent: backup.parent.as_ref().map(|parent| parent.name.to_string()),
        images: images.collect(),
    }
}

pub(super) fn parse_id(text: &str) -> Result<Uuid, Problem> {
    Uuid::parse_str(text).map_err(|_| {
        Problem::bad_request(format!(
            "`{text}` is not an id; use the one that the request before gave"
        ))
    })
}

pub(super) fn parse_number(text: &str) -> Result<usize, Problem> {
    text.parse().map_err(|_| {
        Problem::bad_request(format!(
            "`{text}` is not the number of a disk; they count from 0"
        ))
    })
}

pub(super) fn no_descriptor() -> Problem {
    Problem::not_found(
        "no open file of that name was handed over, or its connection to the control socket was closed",
    )
}
