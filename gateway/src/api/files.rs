//! Single files out of restore points: list, search, one file in whole or in part, a folder as an archive.

use std::io::{self, Write};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json as Reply;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use export::{Attributes, ExportError, FileExport, FileId, FileKind};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;

use crate::Core;
use crate::browse::{DiskTree, FileView, PathError, Walk, find};
use crate::exports::chain;
use crate::extract::{ArchiveForm, DEPTH_MAX};
use crate::recovery::resolve;

use super::body::{Pipe, pipe};
use super::download::{Asked, asked_range, attachment};
use super::problem::Problem;

/// Where to look.
#[derive(Debug, Deserialize)]
pub(super) struct Place {
    /// From the top; without it the disks themselves.
    #[serde(default)]
    path: String,
    /// As the last part of the list said.
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
    /// A text that is in the names that are wanted.
    name: Option<String>,
    /// `zip` or `tar`.
    format: Option<String>,
}

/// Some of a folder.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(super) struct FolderView {
    /// What is in it.
    files: Vec<FileView>,
    /// What to give as `after` for the next part; none: that was all.
    next: Option<u64>,
}

/// What was found.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(super) struct SearchView {
    /// Those that were found.
    files: Vec<FileView>,
    /// Whether the search ended before it was through: at the limit, or as it took too long.
    cut: bool,
    /// What could not be looked into, and why.
    left_out: Vec<String>,
}

/// Lists what is in a folder of a restore point, part by part.
#[utoipa::path(get, path = "/v1/points/{point}/files", tag = "files",
    params(("point" = String, Path), ("path" = Option<String>, Query, description = "Such as `disk-0/p1/etc`; without it the disks"),
        ("after" = Option<u64>, Query, description = "`next` of the part before"),
        ("limit" = Option<usize>, Query, description = "At most so many, 1000 without it, 10000 at most")),
    responses((status = 200, body = FolderView), (status = 404, body = Problem)))]
pub(super) async fn list(
    State(core): State<Arc<Core>>,
    Path(point): Path<String>,
    Query(place): Query<Place>,
) -> Result<Reply<FolderView>, Problem> {
    let reader = Reader::open(&core, &point).await?;
    let limit = place.limit.unwrap_or(LISTED).clamp(1, LISTED_MAX);
    let view = reader.run(&core, move |tree| {
        let folder = find(tree, &place.path)?;
        let mut entries = tree.list(folder, place.after, limit + 1)?;
        let is_more = entries.len() > limit;
        entries.truncate(limit);
        let top = place.path.trim_matches('/');
        let file = |entry: &export::DirectoryEntry| {
            let path = format!("{top}/{}", String::from_utf8_lossy(&entry.name));
            FileView::new(tree, path.trim_start_matches('/'), &entry.attributes)
        };
        Ok(FolderView {
            files: entries.iter().map(file).collect(),
            next: entries.last().filter(|_| is_more).map(|entry| entry.cookie),
        })
    });
    Ok(Reply(view.await?))
}

/// Looks for names in a folder of a restore point and all folders below.
#[utoipa::path(get, path = "/v1/points/{point}/files/search", tag = "files",
    params(("point" = String, Path), ("path" = Option<String>, Query, description = "Where to begin; without it all disks"),
        ("name" = String, Query, description = "A text that is in the names that are wanted, whatever its case"),
        ("limit" = Option<usize>, Query, description = "At most so many, 1000 without it, 10000 at most")),
    responses((status = 200, body = SearchView), (status = 404, body = Problem)))]
pub(super) async fn search(
    State(core): State<Arc<Core>>,
    Path(point): Path<String>,
    Query(place): Query<Place>,
) -> Result<Reply<SearchView>, Problem> {
    let wanted = place.name.unwrap_or_default().to_lowercase();
    if wanted.is_empty() {
        return Err(Problem::bad_request(
            "say what to look for: `name` is missing or empty",
        ));
    }
    let reader = Reader::open(&core, &point).await?;
    let limit = place.limit.unwrap_or(LISTED).clamp(1, LISTED_MAX);
    let view = reader.run(&core, move |tree| {
        let start = find(tree, &place.path)?;
        let began = Instant::now();
        let mut view = SearchView {
            files: Vec::new(),
            cut: false,
            left_out: Vec::new(),
        };
        let mut walk = Walk::new(tree);
        walk.run(start, &place.path, DEPTH_MAX, &mut |path, entry| {
            if began.elapsed() > SEARCH_LIMIT {
                view.cut = true;
                return ControlFlow::Break(());
            }
            if String::from_utf8_lossy(&entry.name)
                .to_lowercase()
                .contains(&wanted)
            {
                if view.files.len() == limit {
                    view.cut = true;
                    return ControlFlow::Break(());
                }
                view.files
                    .push(FileView::new(tree, path, &entry.attributes));
            }
            ControlFlow::Continue(())
        })?;
        view.left_out = walk.left_out;
        Ok(view)
    });
    Ok(Reply(view.await?))
}

/// Gives the content of a file of a restore point, or a range of it (RFC 9110, section 14), so that what was cut can be gone on
/// with.
#[utoipa::path(get, path = "/v1/points/{point}/files/content", tag = "files",
    params(("point" = String, Path), ("path" = String, Query)),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>),
        (status = 206, content_type = "application/octet-stream", body = Vec<u8>),
        (status = 404, body = Problem), (status = 416, body = Problem)))]
pub(super) async fn content(
    State(core): State<Arc<Core>>,
    Path(point): Path<String>,
    Query(place): Query<Place>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let reader = Reader::open(&core, &point).await?;
    let path = place.path.clone();
    let attributes = reader
        .run(&core, move |tree| {
            let attributes = tree.attributes(find(tree, &path)?)?;
            let is_special = tree.particulars(attributes.file)?.special.is_some();
            match attributes.kind {
                FileKind::File if !is_special => Ok(attributes),
                FileKind::Directory => Err(Failure::Kind("it is a folder; get it as an archive")),
                FileKind::Symlink => Err(Failure::Kind("it is a link; ask for what it leads to")),
                FileKind::File => Err(Failure::Kind("it is a device, a pipe or a socket")),
            }
        })
        .await?;
    let tag = format!("\"{}-{:x}\"", reader.tag, attributes.file.0);
    let size = attributes.size_bytes;
    let range = match asked_range(&headers, size, &tag) {
        Asked::All => None,
        Asked::Part(range) => Some(range),
        Asked::Nothing => {
            let detail =
                format!("the file has {size} bytes, and none of the range that was asked for");
            let refused = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, "range", detail);
            let mut response = refused.into_response();
            insert(
                response.headers_mut(),
                header::CONTENT_RANGE,
                &format!("bytes */{size}"),
            );
            return Ok(response);
        }
    };
    let sent = range.clone().unwrap_or(0..size);
    let body = reader.stream("file-content", {
        let sent = sent.clone();
        move |tree, pipe| send_content(tree, &attributes, sent, pipe)
    })?;
    let status = match &range {
        Some(_) => StatusCode::PARTIAL_CONTENT,
        None => StatusCode::OK,
    };
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    insert(headers, header::CONTENT_TYPE, "application/octet-stream");
    insert(headers, header::ACCEPT_RANGES, "bytes");
    insert(headers, header::ETAG, &tag);
    insert(
        headers,
        header::CONTENT_LENGTH,
        &(sent.end - sent.start).to_string(),
    );
    insert(
        headers,
        header::CONTENT_DISPOSITION,
        &attachment(&place.path, ""),
    );
    if let Some(range) = range {
        let range = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        insert(headers, header::CONTENT_RANGE, &range);
    }
    Ok(response)
}

/// Gives a folder of a restore point, with all that is in it, as a zip or tar archive. What cannot be read is left out, and
/// the daemon's log says how much; if the archive cannot go on at all, it is cut.
#[utoipa::path(get, path = "/v1/points/{point}/files/archive", tag = "files",
    params(("point" = String, Path), ("path" = String, Query),
        ("format" = Option<String>, Query, description = "`zip`, or `tar`, which keeps owners and modes")),
    responses((status = 200, content_type = "application/zip", body = Vec<u8>), (status = 404, body = Problem)))]
pub(super) async fn archive(
    State(core): State<Arc<Core>>,
    Path(point): Path<String>,
    Query(place): Query<Place>,
) -> Result<Response, Problem> {
    let format = place.format.as_deref().unwrap_or("zip");
    let Some(form) = ArchiveForm::of(format) else {
        let detail = format!("`{format}` is no form of archives; give `zip` or `tar`");
        return Err(Problem::bad_request(detail));
    };
    let reader = Reader::open(&core, &point).await?;
    let path = place.path.clone();
    let folder = reader
        .run(&core, move |tree| {
            let folder = find(tree, &path)?;
            match tree.attributes(folder)?.kind {
                FileKind::Directory => Ok(folder),
                _ => Err(Failure::Kind("it is no folder; get its content")),
            }
        })
        .await?;
    let body = reader.stream("file-archive", move |tree, pipe| {
        send_archive(tree, folder, form, pipe)
    })?;
    let mut response = body.into_response();
    let headers = response.headers_mut();
    insert(headers, header::CONTENT_TYPE, form.media_type());
    let name = attachment(&place.path, &format!(".{format}"));
    insert(headers, header::CONTENT_DISPOSITION, &name);
    Ok(response)
}

/// A restore point that is looked into, as one of a few at once.
struct Reader {
    tree: Arc<DiskTree>,
    /// Stands for the content of all its disks.
    tag: String,
    permit: OwnedSemaphorePermit,
}

/// Why nothing comes.
enum Failure {
    Path(PathError),
    NoFolder(String),
    Kind(&'static str),
    Read(ExportError),
}

impl Reader {
    async fn open(core: &Arc<Core>, point: &str) -> Result<Self, Problem> {
        let Some(permit) = core.opened_points.turn().await else {
            let detail = "too many files are read at once; try again in a moment";
            return Err(Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "busy",
                detail,
            ));
        };
        let point = resolve(&core.repository, point)?;
        let mut hasher = blake3::Hasher::new();
        for image in &point.images {
            hasher.update(image.root_id.as_bytes());
        }
        let tag = hasher.finalize().to_hex().chars().take(16).collect();
        let tree = core
            .run(move |core| core.opened_points.tree(&point))
            .await?;
        Ok(Self { tree, tag, permit })
    }

    /// Looks something up, which may take a while on a disk that is slow or hurt.
    async fn run<T: Send + 'static>(
        &self,
        core: &Arc<Core>,
        work: impl FnOnce(&DiskTree) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Problem> {
        let tree = Arc::clone(&self.tree);
        let done = core.run_long(move |_| work(&tree)).await;
        Ok(done.map_err(|error| Problem::internal(&error))??)
    }

    /// Sends what `work` writes. If it fails the body is cut, which the client notices.
    fn stream(
        self,
        name: &str,
        work: impl FnOnce(&dyn FileExport, &Pipe) -> io::Result<()> + Send + 'static,
    ) -> Result<axum::body::Body, Problem> {
        let (sender, body) = pipe();
        let started = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let done = work(&*self.tree, &sender);
                if let Err(error) = done
                    && !sender.is_closed()
                {
                    tracing::warn!(error = chain(&error), "files of a restore point were cut");
                    drop(sender.blocking_send(Err(error)));
                }
                drop(self.permit);
            });
        started.map_err(|error| Problem::internal(&error))?;
        Ok(body)
    }
}

/// Sends a part of a file, exactly as long as was promised.
fn send_content(
    tree: &dyn FileExport,
    attributes: &Attributes,
    range: Range<u64>,
    pipe: &Pipe,
) -> io::Result<()> {
    let mut at = range.start;
    while at < range.end {
        let length = u32::try_from(range.end - at)
            .unwrap_or(READ_BYTES)
            .min(READ_BYTES);
        let read = tree
            .read(attributes.file, at, length)
            .map_err(io::Error::other)?;
        if read.data.is_empty() {
            return Err(io::Error::other(format!("the file ends at byte {at}")));
        }
        for piece in read.data.into_pieces() {
            at += piece.len() as u64;
            send(pipe, piece)?;
        }
    }
    Ok(())
}

fn send_archive(
    tree: &dyn FileExport,
    folder: FileId,
    form: ArchiveForm,
    pipe: &Pipe,
) -> io::Result<()> {
    let mut out = PipeWriter {
        pipe,
        waiting: Vec::with_capacity(PIECE_BYTES),
    };
    let done = form.pack(tree, folder, &mut out);
    let done = done.map_err(|error| io::Error::other(format!("{error:#}")))?;
    if done.left_out_total > 0 {
        let count = done.left_out_total;
        tracing::warn!(count, "files that cannot be read are not in an archive");
    }
    out.flush()
}

/// Collects what is written in pieces.
struct PipeWriter<'a> {
    pipe: &'a Pipe,
    waiting: Vec<u8>,
}

impl Write for PipeWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.waiting.is_empty() {
            true => Ok(()),
            false => send(self.pipe, std::mem::take(&mut self.waiting).into()),
        }
    }
}

fn send(pipe: &Pipe, piece: Bytes) -> io::Result<()> {
    pipe.blocking_send(Ok(piece))
        .map_err(|_| io::ErrorKind::BrokenPipe.into())
}

fn insert(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    let value = HeaderValue::from_str(value).expect("only visible ASCII is put in");
    headers.insert(name, value);
}

impl From<PathError> for Failure {
    fn from(error: PathError) -> Self {
        Self::Path(error)
    }
}

impl From<crate::browse::NoFolder> for Failure {
    fn from(error: crate::browse::NoFolder) -> Self {
        Self::NoFolder(error.to_string())
    }
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        Self::Read(error)
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let unreadable = |error: &dyn std::error::Error| {
            let detail = format!("{}; other files may be well", chain(error));
            Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unreadable", detail)
        };
        match failure {
            Failure::Path(error @ PathError::BadPart { .. }) => {
                Self::bad_request(error.to_string())
            }
            Failure::Path(error @ PathError::Unreadable { .. }) => unreadable(&error),
            Failure::Path(error) => Self::not_found(error.to_string()),
            Failure::NoFolder(detail) => Self::bad_request(detail),
            Failure::Kind(detail) => Self::bad_request(detail),
            Failure::Read(ExportError::NotDirectory) => {
                Self::bad_request("it is no folder; get its content")
            }
            Failure::Read(error) => unreadable(&error),
        }
    }
}

/// Entries of a folder, where nobody says how many.
const LISTED: usize = 1000;
const LISTED_MAX: usize = 10_000;
/// How long a search may take: whoever waits longer looks in fewer folders.
const SEARCH_LIMIT: Duration = Duration::from_secs(60);
/// What is read of a file at once.
const READ_BYTES: u32 = 1 << 20;
/// What is sent of an archive at once.
const PIECE_BYTES: usize = 256 << 10;
