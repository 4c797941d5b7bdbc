//! Streams of databases, by name: what `ingest` serves.
//!
//! A stream is a restore point of its workload with one stream and no disk in it, whose configuration says its name
//! (`docs/formats/ingest.md`, part "In the repository"). So it is locked, starred, expired, verified and rescued as any other point.

mod access;
mod names;
mod refusal;
mod staged;
mod workload;

pub(crate) use access::Doors;

use ingest::{About, Entry};
use repo::{Point, PointKind};
use serde::{Deserialize, Serialize};

/// What a point's configuration says if it is a stream.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Described {
    stream: Named,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Named {
    name: String,
    #[serde(default)]
    about: About,
}

/// The kind of the points that are streams: complete by themselves, whatever the database calls them.
const KIND: PointKind = PointKind::Full;
/// What the stream is called within its point.
const PART: &str = "stream";

/// The entry of a point that is a stream.
fn entry(point: &Point) -> Option<Entry> {
    let stream = point.streams.iter().find(|stream| stream.name == PART)?;
    let described = Described::deserialize(&point.configuration).ok()?;
    point.images.is_empty().then(|| Entry {
        name: described.stream.name,
        size_bytes: stream.size_bytes,
        stored_bytes: stream.stored_bytes,
        created: point.created.to_string(),
        point: point.name.to_string(),
        about: described.stream.about,
    })
}
