//! Manifests (`docs/formats/catalog.md`).

use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{ExcludedRecord, ImageRecord, Point, PointKind, PointName, StreamRecord};
use crate::chunk::ChunkId;
use crate::clock::UnixNanoseconds;
use crate::error::RepoError;
use crate::image::{IMAGE_BYTES_MAX, Pointer};
use crate::keys::{KeyRing, MasterKey};
use crate::pack::Place;

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
    /// From version 2 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    excluded: Option<StoredExcluded>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredExcluded {
    total_bytes: u64,
    stream: String,
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

/// A manifest as it is to be stored at `path`.
pub(super) fn encode_point(
    point: &Point,
    repository: Uuid,
    keys: &KeyRing,
    path: &Path,
) -> Result<Vec<u8>, RepoError> {
    let images = point.images.iter().map(|image| StoredImage {
        name: image.name.clone(),
        size_bytes: image.size_bytes,
        root: image.root.into(),
        sent_bytes: image.sent_bytes,
        stored_bytes: image.stored_bytes,
        new_chunks: image.new_chunks,
        changed_chunks: image.changed_chunks,
        excluded: image.excluded.as_ref().map(|excluded| StoredExcluded {
            total_bytes: excluded.total_bytes,
            stream: excluded.stream.clone(),
        }),
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
    // Readers of version 1 can go on reading what they would understand.
    let has_excluded = point.images.iter().any(|image| image.excluded.is_some());
    let version = if has_excluded { VERSION } else { 1 };
    keys.seal_text(KIND, version, path, &body)
}

/// Reads the manifest that lies at `path`. Whose it is stands in it; the caller compares.
pub(super) fn decode_point(
    text: &[u8],
    repository: Uuid,
    keys: &KeyRing,
    path: &Path,
) -> Result<Point, RepoError> {
    let what = format!("manifest {}", path.display());
    let corrupt = |detail: String| RepoError::Corrupt {
        what: what.clone(),
        detail,
    };
    let (version, body) = keys.open_text(&what, KIND, VERSION, path, text)?;
    let stored: StoredPoint =
        serde_json::from_str(&body).map_err(|error| corrupt(error.to_string()))?;
    if stored.repository != repository {
        return Err(corrupt(format!(
            "it belongs to repository {}",
            stored.repository
        )));
    }
    let images = stored
        .images
        .iter()
        .map(|image| {
            decode_image(image, &stored.streams).filter(|_| version > 1 || image.excluded.is_none())
        })
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
        images: images.ok_or_else(|| {
            corrupt("a disk's size, root or excluded stretches make no sense".to_owned())
        })?,
        streams: streams.ok_or_else(|| corrupt("a stream's root makes no sense".to_owned()))?,
        configuration: stored.configuration,
    })
}

/// The repository that a manifest says it belongs to, if it is not encrypted and proven by its hash.
pub(super) fn repository_of(text: &[u8]) -> Option<Uuid> {
    let (_, body) = super::open_head("a manifest", KIND, VERSION, text).ok()?;
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    value.get("repository")?.as_str()?.parse().ok()
}

fn decode_image(stored: &StoredImage, streams: &[StoredStream]) -> Option<ImageRecord> {
    let sensible =
        (1..=IMAGE_BYTES_MAX).contains(&stored.size_bytes) && stored.size_bytes.is_multiple_of(512);
    sensible.then_some(())?;
    let excluded = stored.excluded.as_ref().map(|excluded| ExcludedRecord {
        total_bytes: excluded.total_bytes,
        stream: excluded.stream.clone(),
    });
    if let Some(excluded) = &excluded {
        let mut names = streams.iter().map(|stream| &stream.name);
        names.find(|name| **name == excluded.stream)?;
    }
    Some(ImageRecord {
        name: stored.name.clone(),
        size_bytes: stored.size_bytes,
        sent_bytes: stored.sent_bytes,
        stored_bytes: stored.stored_bytes,
        new_chunks: stored.new_chunks,
        changed_chunks: stored.changed_chunks,
        root_id: stored.root.id.clone(),
        excluded,
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

pub(super) fn parse_sequence(digits: &str) -> Option<u64> {
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// Feeds `bytes` to the decoder of manifests. Whatever they are, nothing panics.
#[doc(hidden)]
pub fn fuzz_manifest(bytes: &[u8]) {
    let path = Path::new("points/fuzz/1");
    let encrypted = KeyRing::new(MasterKey::from_bytes([7; 32]), Uuid::nil());
    for keys in [KeyRing::plain(), encrypted] {
        drop(decode_point(bytes, Uuid::nil(), &keys, path));
        if let Ok(text) = std::str::from_utf8(bytes)
            && let Ok(sealed) = keys.seal_text(KIND, VERSION, path, text)
        {
            drop(decode_point(&sealed, Uuid::nil(), &keys, path));
        }
    }
}

/// The largest manifest.
pub(super) const MANIFEST_BYTES_MAX: u64 = 16 << 20;

const KIND: &str = "point";
const VERSION: u32 = 2;
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
                excluded: None,
                root,
            }],
            streams: Vec::new(),
            configuration: serde_json::json!({"cpus": 2}),
        }
    }

    fn rings() -> [KeyRing; 2] {
        let master = MasterKey::from_bytes([3; 32]);
        [KeyRing::plain(), KeyRing::new(master, Uuid::nil())]
    }

    #[test]
    fn a_manifest_reads_back_and_any_changed_byte_is_found() {
        let point = point();
        let path = Path::new("x");
        for keys in rings() {
            let text = encode_point(&point, Uuid::nil(), &keys, path).unwrap();
            let back = decode_point(&text, Uuid::nil(), &keys, path).unwrap();
            assert_eq!(format!("{back:?}"), format!("{point:?}"));
            for place in 0..text.len() {
                let mut hurt = text.clone();
                hurt[place] ^= 1;
                assert!(
                    decode_point(&hurt, Uuid::nil(), &keys, path).is_err(),
                    "byte {place}"
                );
            }
        }
    }

    #[test]
    fn excluded_stretches_make_version_two_and_name_a_stream() {
        let path = Path::new("x");
        let keys = KeyRing::plain();
        let mut point = point();
        let version = |point: &Point| {
            let text = encode_point(point, Uuid::nil(), &keys, path).unwrap();
            let head: Vec<u8> = text
                .iter()
                .copied()
                .take_while(|byte| *byte != b'\n')
                .collect();
            (
                String::from_utf8(head)
                    .unwrap()
                    .split(' ')
                    .nth(2)
                    .unwrap()
                    .to_owned(),
                text,
            )
        };
        assert_eq!(version(&point).0, "1", "older readers understand it");
        point.images[0].excluded = Some(ExcludedRecord {
            total_bytes: 512,
            stream: "disk-0.excluded".to_owned(),
        });
        let (two, text) = version(&point);
        assert_eq!(two, "2");
        let error = decode_point(&text, Uuid::nil(), &keys, path).unwrap_err();
        assert!(error.to_string().contains("excluded"), "{error}");
        point.streams.push(StreamRecord {
            name: "disk-0.excluded".to_owned(),
            size_bytes: 24,
            stored_bytes: 10,
            depth: 1,
            root: point.images[0].root,
        });
        let (_, text) = version(&point);
        let back = decode_point(&text, Uuid::nil(), &keys, path).unwrap();
        assert_eq!(format!("{back:?}"), format!("{point:?}"));
        // Version 1 has no such field.
        let body = text.splitn(2, |byte| *byte == b'\n').nth(1).unwrap();
        let body = std::str::from_utf8(body).unwrap();
        let text = keys.seal_text(KIND, 1, path, body).unwrap();
        assert!(decode_point(&text, Uuid::nil(), &keys, path).is_err());
    }

    #[test]
    fn a_manifest_of_another_repository_is_refused() {
        for keys in rings() {
            let text = encode_point(&point(), Uuid::nil(), &keys, Path::new("x")).unwrap();
            let error = decode_point(&text, Uuid::max(), &keys, Path::new("x")).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "manifest x is damaged: it belongs to repository {}",
                    Uuid::nil()
                )
            );
        }
    }
}
