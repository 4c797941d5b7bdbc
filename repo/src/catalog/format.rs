//! The text files of `docs/formats/catalog.md`: a head line that proves the rest, then JSON.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{ImageRecord, Point, PointKind, PointName, StreamRecord};
use crate::chunk::ChunkId;
use crate::clock::UnixNanoseconds;
use crate::error::RepoError;
use crate::image::{IMAGE_BYTES_MAX, Pointer};
use crate::pack::Place;

/// Puts the head line before a body: `holdfast KIND VERSION HASH`.
pub(crate) fn seal_text(kind: &str, version: u32, body: &str) -> String {
    format!(
        "holdfast {kind} {version} {}\n{body}",
        text_hash(kind, version, body)
    )
}

/// The hash in the head line covers the rest of that line, too.
fn text_hash(kind: &str, version: u32, body: &str) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("holdfast {kind} {version}\n").as_bytes());
    hasher.update(body.as_bytes());
    hasher.finalize()
}

/// The version and body of a text that [`seal_text`] made, proven.
pub(crate) fn open_text<'a>(
    what: &str,
    kind: &str,
    known: u32,
    text: &'a [u8],
) -> Result<(u32, &'a str), RepoError> {
    let corrupt = |detail: &str| RepoError::Corrupt {
        what: what.to_owned(),
        detail: detail.to_owned(),
    };
    let text = std::str::from_utf8(text).map_err(|_| corrupt("it is not text"))?;
    let (head, body) = text
        .split_once('\n')
        .ok_or_else(|| corrupt("it is cut off in its first line"))?;
    let words: Vec<&str> = head.split(' ').collect();
    let ["holdfast", found, version, hash] = words.as_slice() else {
        return Err(corrupt("its first line is not one of holdfast's"));
    };
    let version: u32 = version
        .parse()
        .map_err(|_| corrupt("its format version is no number"))?;
    if *found != kind {
        return Err(corrupt(&format!("it is a {found}, not a {kind}")));
    }
    if version > known {
        return Err(RepoError::TooNew {
            what: what.to_owned(),
            found: version,
            known,
        });
    }
    if text_hash(kind, version, body).to_hex().as_str() != *hash {
        return Err(corrupt(
            "its content does not have the hash in its first line",
        ));
    }
    Ok((version, body))
}

/// A manifest as it is stored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredPoint {
    repository: Uuid,
    point: PointName,
    kind: StoredKind,
    created_unix_nanoseconds: u64,
    parent: Option<PointName>,
    images: Vec<StoredImage>,
    streams: Vec<StoredStream>,
    configuration: serde_json::Value,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StoredKind {
    Full,
    Incremental,
    Sealed,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredImage {
    name: String,
    size_bytes: u64,
    root: StoredPointer,
    sent_bytes: u64,
    stored_bytes: u64,
    new_chunks: u64,
    changed_chunks: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredStream {
    name: String,
    size_bytes: u64,
    depth: u8,
    root: StoredPointer,
    stored_bytes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredPointer {
    id: String,
    pack: u32,
    slot: u32,
}

impl From<Pointer> for StoredPointer {
    fn from(pointer: Pointer) -> Self {
        Self {
            id: pointer.id.to_string(),
            pack: pointer.place.pack,
            slot: pointer.place.slot,
        }
    }
}

impl StoredPointer {
    fn decode(&self) -> Option<Pointer> {
        let id = ChunkId::from_hex(&self.id)?;
        Some(Pointer {
            id,
            place: Place {
                pack: self.pack,
                slot: self.slot,
            },
        })
    }
}

/// A manifest's text.
pub(super) fn encode_point(point: &Point, repository: Uuid) -> String {
    let images = point.images.iter().map(|image| StoredImage {
        name: image.name.clone(),
        size_bytes: image.size_bytes,
        root: image.root.into(),
        sent_bytes: image.sent_bytes,
        stored_bytes: image.stored_bytes,
        new_chunks: image.new_chunks,
        changed_chunks: image.changed_chunks,
    });
    let streams = point.streams.iter().map(|stream| StoredStream {
        name: stream.name.clone(),
        size_bytes: stream.size_bytes,
        depth: stream.depth,
        root: stream.root.into(),
        stored_bytes: stream.stored_bytes,
    });
    let stored = StoredPoint {
        repository,
        point: point.name.clone(),
        kind: match point.kind {
            PointKind::Full => StoredKind::Full,
            PointKind::Incremental => StoredKind::Incremental,
            PointKind::Sealed => StoredKind::Sealed,
        },
        created_unix_nanoseconds: point.created.0,
        parent: point.parent.clone(),
        images: images.collect(),
        streams: streams.collect(),
        configuration: point.configuration.clone(),
    };
    let body = serde_json::to_string_pretty(&stored).expect("a manifest has only text keys");
    seal_text(KIND, VERSION, &body)
}

/// Reads the manifest `what`, which must be that of `name` in this repository.
pub(super) fn decode_point(
    text: &[u8],
    repository: Uuid,
    name: &PointName,
    what: &str,
) -> Result<Point, RepoError> {
    let what = format!("manifest {what}");
    let corrupt = |detail: String| RepoError::Corrupt {
        what: what.clone(),
        detail,
    };
    let (_, body) = open_text(&what, KIND, VERSION, text)?;
    let stored: StoredPoint =
        serde_json::from_str(body).map_err(|error| corrupt(error.to_string()))?;
    if stored.repository != repository {
        return Err(corrupt(format!(
            "it belongs to repository {}",
            stored.repository
        )));
    }
    if stored.point != *name {
        return Err(corrupt(format!("it is that of {}", stored.point)));
    }
    let images = stored
        .images
        .iter()
        .map(decode_image)
        .collect::<Option<Vec<_>>>();
    let streams = stored
        .streams
        .iter()
        .map(decode_stream)
        .collect::<Option<Vec<_>>>();
    Ok(Point {
        name: stored.point,
        kind: match stored.kind {
            StoredKind::Full => PointKind::Full,
            StoredKind::Incremental => PointKind::Incremental,
            StoredKind::Sealed => PointKind::Sealed,
        },
        created: UnixNanoseconds(stored.created_unix_nanoseconds),
        parent: stored.parent,
        images: images.ok_or_else(|| corrupt("a disk's size or root makes no sense".to_owned()))?,
        streams: streams.ok_or_else(|| corrupt("a stream's root makes no sense".to_owned()))?,
        configuration: stored.configuration,
    })
}

fn decode_image(stored: &StoredImage) -> Option<ImageRecord> {
    let sensible =
        (1..=IMAGE_BYTES_MAX).contains(&stored.size_bytes) && stored.size_bytes.is_multiple_of(512);
    sensible.then_some(())?;
    Some(ImageRecord {
        name: stored.name.clone(),
        size_bytes: stored.size_bytes,
        sent_bytes: stored.sent_bytes,
        stored_bytes: stored.stored_bytes,
        new_chunks: stored.new_chunks,
        changed_chunks: stored.changed_chunks,
        root_id: stored.root.id.clone(),
        root: stored.root.decode()?,
    })
}

fn decode_stream(stored: &StoredStream) -> Option<StreamRecord> {
    (stored.depth <= STREAM_DEPTH_MAX).then_some(())?;
    Some(StreamRecord {
        name: stored.name.clone(),
        size_bytes: stored.size_bytes,
        stored_bytes: stored.stored_bytes,
        depth: stored.depth,
        root: stored.root.decode()?,
    })
}

/// Sequence and epoch from the name of a manifest's file.
pub(super) fn parse_point_file(name: &str) -> Option<(u64, u32)> {
    let (sequence, epoch) = name.split_once('.')?;
    let epoch = (epoch.len() == 8)
        .then(|| u32::from_str_radix(epoch, 16).ok())
        .flatten()?;
    Some((parse_sequence(sequence)?, epoch))
}

/// The number that a file in a workload's folder takes up.
pub(super) fn sequence_of(name: &str) -> Option<u64> {
    parse_sequence(name.split_once('.')?.0)
}

fn parse_sequence(digits: &str) -> Option<u64> {
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// Feeds `bytes` to the decoder of manifests. Whatever they are, nothing panics.
#[doc(hidden)]
pub fn fuzz_manifest(bytes: &[u8]) {
    let Ok(name) = "fuzz@1".parse::<PointName>() else {
        return;
    };
    drop(decode_point(bytes, Uuid::nil(), &name, "fuzz"));
    if let Ok(text) = std::str::from_utf8(bytes) {
        drop(decode_point(
            seal_text(KIND, VERSION, text).as_bytes(),
            Uuid::nil(),
            &name,
            "fuzz",
        ));
    }
}

/// The largest manifest.
pub(super) const MANIFEST_BYTES_MAX: u64 = 16 << 20;

const KIND: &str = "point";
const VERSION: u32 = 1;
const STREAM_DEPTH_MAX: u8 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    fn point() -> Point {
        let root = Pointer {
            id: ChunkId::of(b"root"),
            place: Place { pack: 3, slot: 400 },
        };
        Point {
            name: "web@3".parse().unwrap(),
            kind: PointKind::Incremental,
            created: UnixNanoseconds(1_790_000_000_000_000_000),
            parent: Some("web@2".parse().unwrap()),
            images: vec![ImageRecord {
                name: "disk-0".to_owned(),
                size_bytes: 4096,
                sent_bytes: 512,
                stored_bytes: 100,
                new_chunks: 1,
                changed_chunks: 1,
                root_id: root.id.to_string(),
                root,
            }],
            streams: Vec::new(),
            configuration: serde_json::json!({"cpus": 2}),
        }
    }

    #[test]
    fn a_manifest_reads_back_and_any_changed_byte_is_found() {
        let point = point();
        let text = encode_point(&point, Uuid::nil());
        let back = decode_point(text.as_bytes(), Uuid::nil(), &point.name, "x").unwrap();
        assert_eq!(format!("{back:?}"), format!("{point:?}"));
        for place in 0..text.len() {
            let mut hurt = text.clone().into_bytes();
            hurt[place] ^= 1;
            assert!(
                decode_point(&hurt, Uuid::nil(), &point.name, "x").is_err(),
                "byte {place}"
            );
        }
    }

    #[test]
    fn a_manifest_of_another_repository_or_point_is_refused() {
        let point = point();
        let text = encode_point(&point, Uuid::nil());
        assert!(decode_point(text.as_bytes(), Uuid::max(), &point.name, "x").is_err());
        let other = "web@4".parse().unwrap();
        let error = decode_point(text.as_bytes(), Uuid::nil(), &other, "x").unwrap_err();
        assert_eq!(
            error.to_string(),
            "manifest x is damaged: it is that of web@3"
        );
    }

    #[test]
    fn a_newer_version_is_named_as_such() {
        let error = open_text("manifest x", KIND, 1, b"holdfast point 2 00\n{}").unwrap_err();
        assert!(
            matches!(
                error,
                RepoError::TooNew {
                    found: 2,
                    known: 1,
                    ..
                }
            ),
            "{error}"
        );
    }
}
