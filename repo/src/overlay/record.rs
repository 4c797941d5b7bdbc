//! What an overlay is, and its folder.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::format::SEGMENT_HEADER_BYTES;
use super::keys::OverlayKeys;
use super::pages::PageStore;
use crate::catalog::PointName;
use crate::checksum::crc32c;
use crate::clock::UnixNanoseconds;
use crate::disk::Disk;
use crate::error::RepoError;

/// What an overlay lies over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayRecord {
    /// Its name, for ever.
    pub id: Uuid,
    /// The restore point below.
    pub point: PointName,
    /// Which disk of the point.
    pub disk: usize,
    /// Capacity of that disk.
    pub size_bytes: u64,
    /// When it was made.
    pub created: UnixNanoseconds,
}

/// `overlay.json` after its first line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    id: Uuid,
    point: String,
    disk: usize,
    size_bytes: u64,
    created_unix_nanoseconds: u64,
    /// Set as the first step of a discard.
    #[serde(default)]
    discarded: bool,
}

/// All overlays, without those whose discard was begun.
pub fn overlays(disk: &dyn Disk, keys: &OverlayKeys) -> Result<Vec<OverlayRecord>, RepoError> {
    let mut records = Vec::new();
    for id in folders(disk)? {
        match load(disk, keys, id) {
            Ok((record, false)) => records.push(record),
            Ok((_, true)) | Err(RepoError::NoSuchOverlay(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(records)
}

/// The overlays that can be read, without those whose discard was begun; `unreadable` is told of the others.
pub fn readable(
    disk: &dyn Disk,
    keys: &OverlayKeys,
    unreadable: &mut dyn FnMut(RepoError),
) -> Vec<OverlayRecord> {
    let ids = folders(disk).unwrap_or_else(|error| {
        unreadable(error);
        Vec::new()
    });
    let mut records = Vec::new();
    for id in ids {
        match load(disk, keys, id) {
            Ok((record, false)) => records.push(record),
            Ok((_, true)) | Err(RepoError::NoSuchOverlay(_)) => {}
            Err(error) => unreadable(error),
        }
    }
    records
}

/// The overlay of that name.
pub fn find(disk: &dyn Disk, keys: &OverlayKeys, id: Uuid) -> Result<OverlayRecord, RepoError> {
    match load(disk, keys, id)? {
        (record, false) => Ok(record),
        (_, true) => Err(RepoError::NoSuchOverlay(id)),
    }
}

/// Finishes what a crash left half done: discards, and overlays that were never answered. To be called once after
/// the repository was opened and before an overlay is.
pub fn finish_discards(
    disk: &dyn Disk,
    keys: &OverlayKeys,
    pages: &dyn PageStore,
) -> Result<(), RepoError> {
    for id in folders(disk)? {
        match load(disk, keys, id) {
            Ok((_, false)) => {}
            Ok((_, true)) => remove(disk, pages, id)?,
            Err(RepoError::NoSuchOverlay(_)) if never_written(disk, id)? => {
                remove(disk, pages, id)?
            }
            Err(error) => {
                tracing::warn!(overlay = %id, %error, "an overlay cannot be used; its folder is left as it is")
            }
        }
    }
    Ok(())
}

/// Drops an overlay that is not open, for good, also one that is damaged.
pub fn discard(
    disk: &dyn Disk,
    keys: &OverlayKeys,
    pages: &dyn PageStore,
    id: Uuid,
) -> Result<(), RepoError> {
    if !folders(disk)?.contains(&id) {
        return Err(RepoError::NoSuchOverlay(id));
    }
    if let Ok((record, _)) = load(disk, keys, id) {
        disk.replace(&document_path(id), &encode(keys, &record, true)?)?;
    }
    remove(disk, pages, id)
}

/// Removes the folder, the document last, so that a crash on the way leaves a folder that says what is going on.
fn remove(disk: &dyn Disk, pages: &dyn PageStore, id: Uuid) -> Result<(), RepoError> {
    pages.forget(id)?;
    let folder = folder(id);
    for item in disk.list(&folder)? {
        if item.name != DOCUMENT {
            disk.remove(&folder.join(item.name))?;
        }
    }
    disk.sync_directory(&folder)?;
    disk.remove_directory(&folder)?;
    disk.sync_directory(Path::new(ROOT))?;
    Ok(())
}

/// Whether no segment of the folder has a record.
fn never_written(disk: &dyn Disk, id: Uuid) -> Result<bool, RepoError> {
    Ok(disk
        .list(&folder(id))?
        .iter()
        .all(|item| item.length_bytes <= SEGMENT_HEADER_BYTES as u64))
}

/// Ids of the folders that may be overlays.
fn folders(disk: &dyn Disk) -> Result<Vec<Uuid>, RepoError> {
    match disk.list(Path::new(ROOT)) {
        Ok(items) => Ok(items
            .iter()
            .filter(|item| item.is_directory)
            .filter_map(|item| item.name.parse().ok())
            .collect()),
        Err(error) if error.is_missing() => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Makes an overlay's folder visible; the segments must be there.
pub(super) fn publish(
    disk: &dyn Disk,
    keys: &OverlayKeys,
    record: &OverlayRecord,
) -> Result<(), RepoError> {
    let document = encode(keys, record, false)?;
    Ok(disk.publish(&document_path(record.id), &document)?)
}

/// Reads what an overlay is, and whether its discard was begun.
pub(super) fn load(
    disk: &dyn Disk,
    keys: &OverlayKeys,
    id: Uuid,
) -> Result<(OverlayRecord, bool), RepoError> {
    let path = document_path(id);
    let bytes = disk
        .read(&path, DOCUMENT_BYTES_MAX)
        .map_err(|error| match error.is_missing() {
            true => RepoError::NoSuchOverlay(id),
            false => error.into(),
        })?;
    let what = path.display().to_string();
    let decoded = if keys.ring.is_encrypted() {
        let (_, body) = keys
            .ring
            .open_text(&what, KIND, DOCUMENT_VERSION, &path, &bytes)?;
        decode_body(&body)
    } else {
        decode(&bytes)
    };
    let (record, discarded) = decoded.map_err(|error| match error {
        DocumentError::Version(found) => RepoError::TooNew {
            what,
            found,
            known: DOCUMENT_VERSION,
        },
        DocumentError::Damaged(detail) => RepoError::Corrupt {
            what,
            detail: detail.to_owned(),
        },
    })?;
    if record.id != id {
        return Err(RepoError::Corrupt {
            what: path.display().to_string(),
            detail: "it names another overlay".to_owned(),
        });
    }
    Ok((record, discarded))
}

#[derive(Debug, PartialEq, Eq)]
enum DocumentError {
    Damaged(&'static str),
    Version(u32),
}

fn encode(
    keys: &OverlayKeys,
    record: &OverlayRecord,
    discarded: bool,
) -> Result<Vec<u8>, RepoError> {
    let document = Document {
        id: record.id,
        point: record.point.to_string(),
        disk: record.disk,
        size_bytes: record.size_bytes,
        created_unix_nanoseconds: record.created.0,
        discarded,
    };
    let mut body =
        serde_json::to_string_pretty(&document).expect("names and numbers always make JSON");
    body.push('\n');
    if keys.ring.is_encrypted() {
        let path = document_path(record.id);
        return keys.ring.seal_text(KIND, DOCUMENT_VERSION, &path, &body);
    }
    let check = crc32c(body.as_bytes());
    Ok(format!("{MAGIC} {DOCUMENT_VERSION} {check:08x}\n{body}").into_bytes())
}

fn decode(bytes: &[u8]) -> Result<(OverlayRecord, bool), DocumentError> {
    let damaged = DocumentError::Damaged;
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is no text"))?;
    let (first, body) = text
        .split_once('\n')
        .ok_or(damaged("it has no first line"))?;
    let mut words = first.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(damaged("its first line is not that of an overlay"));
    }
    let version: u32 = words
        .next()
        .and_then(|word| word.parse().ok())
        .ok_or(damaged("it has no version"))?;
    if version != DOCUMENT_VERSION {
        return Err(DocumentError::Version(version));
    }
    if words.next() != Some(format!("{:08x}", crc32c(body.as_bytes())).as_str()) {
        return Err(damaged("its check does not match"));
    }
    decode_body(body)
}

fn decode_body(body: &str) -> Result<(OverlayRecord, bool), DocumentError> {
    let damaged = DocumentError::Damaged;
    let document: Document =
        serde_json::from_str(body).map_err(|_| damaged("its fields cannot be read"))?;
    let record = OverlayRecord {
        id: document.id,
        point: document
            .point
            .parse()
            .map_err(|_| damaged("it names no restore point"))?,
        disk: document.disk,
        size_bytes: document.size_bytes,
        created: UnixNanoseconds(document.created_unix_nanoseconds),
    };
    Ok((record, document.discarded))
}

/// Folder of an overlay.
pub(super) fn folder(id: Uuid) -> PathBuf {
    Path::new(ROOT).join(id.to_string())
}

fn document_path(id: Uuid) -> PathBuf {
    folder(id).join(DOCUMENT)
}

#[doc(hidden)]
pub fn fuzz_overlay_document(bytes: &[u8]) {
    drop(decode(bytes));
}

/// Folder of all overlays.
pub(super) const ROOT: &str = "overlays";
const DOCUMENT: &str = "overlay.json";
const DOCUMENT_VERSION: u32 = 1;
const DOCUMENT_BYTES_MAX: u64 = 64 << 10;
const MAGIC: &str = "holdfast-overlay";

/// What the document is called where it is encrypted, as the catalog's texts are.
const KIND: &str = "overlay";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_come_back_and_every_bit_counts() {
        let record = OverlayRecord {
            id: Uuid::from_u128(5),
            point: "web01@3".parse().unwrap(),
            disk: 1,
            size_bytes: 1 << 30,
            created: UnixNanoseconds(7),
        };
        let bytes = encode(&OverlayKeys::none(), &record, true).unwrap();
        assert_eq!(decode(&bytes), Ok((record.clone(), true)));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(decode(&damaged), Ok((record.clone(), false)));
            assert!(decode(&damaged).is_err() || decode(&damaged) == Ok((record.clone(), true)));
        }
    }
}
