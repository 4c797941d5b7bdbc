//! Records by name, wherever a sound one is.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::ground::Ground;
use super::places::Places;
use crate::chunk::{CHUNK_BYTES, ChunkId};
use crate::disk::Disk;
use crate::error::RepoError;
use crate::image::{ImageNode, Pointer};
use crate::keys::KeyRing;
use crate::pack::{PackFile, PackReader, PackSet, Place, RecordKind, packs_on};
use crate::stream::StreamNode;

/// Reads and proves records, by place first and then by the tables of all packs.
pub(super) struct Records {
    disk: Arc<dyn Disk>,
    keys: Arc<KeyRing>,
    set: Arc<PackSet>,
    reader: PackReader,
    files: Vec<PackFile>,
    places: Mutex<Option<Arc<Places>>>,
    complaints: Mutex<Vec<String>>,
}

impl Records {
    pub(super) fn open(ground: &Ground) -> Self {
        let disk = Arc::clone(&ground.disk);
        let keys = Arc::clone(&ground.keys);
        let mut complaints = Vec::new();
        let files = packs_on(disk.as_ref(), &mut |error| {
            complaints.push(super::ground::sentence(&error));
        });
        let set = PackSet::to_read(
            Arc::clone(&disk),
            Arc::clone(&keys),
            ground.repository,
            &files,
        );
        Self {
            reader: PackReader::new(Arc::clone(&disk), Arc::clone(&set)),
            disk,
            keys,
            set,
            files,
            places: Mutex::new(None),
            complaints: Mutex::new(complaints),
        }
    }

    pub(super) fn complaints(&self) -> Vec<String> {
        self.complaints.lock().clone()
    }

    pub(super) fn packs(&self) -> (u64, u64) {
        (self.files.len() as u64, self.set.stored_bytes())
    }

    /// Chunks of a disk, those that lie together read together.
    pub(super) fn chunks(&self, pointers: &[Pointer]) -> Vec<Result<Bytes, RepoError>> {
        let wanted: Vec<_> = pointers
            .iter()
            .map(|pointer| (pointer.place, pointer.id))
            .collect();
        let mut read = self
            .reader
            .read_run(&wanted)
            .unwrap_or_default()
            .into_iter();
        let mut chunks = Vec::with_capacity(pointers.len());
        for pointer in pointers {
            let chunk = match read.next().flatten() {
                Some(chunk) => Ok(chunk),
                None => self.record(*pointer, RecordKind::Chunk, &|raw| Ok(raw.clone())),
            };
            chunks.push(chunk.and_then(|chunk| match chunk.len() {
                CHUNK_BYTES => Ok(chunk),
                other => Err(RepoError::Corrupt {
                    what: format!("the map that names chunk {} as part of a disk", pointer.id),
                    detail: format!("the chunk has {other} bytes"),
                }),
            }));
        }
        chunks
    }

    /// A chunk of a stream.
    pub(super) fn chunk(&self, pointer: Pointer, length: usize) -> Result<Bytes, RepoError> {
        self.record(
            pointer,
            RecordKind::Chunk,
            &|raw| match raw.len() == length {
                true => Ok(raw.clone()),
                false => Err("the chunk has another length than its map says"),
            },
        )
    }

    /// A node of the map of a disk.
    pub(super) fn image_node(&self, pointer: Pointer, level: u8) -> Result<ImageNode, RepoError> {
        self.record(pointer, RecordKind::ImageNode, &|raw| {
            ImageNode::decode(raw, pointer.id, level, &self.keys)
        })
    }

    /// A node of the map of a stream.
    pub(super) fn stream_node(
        &self,
        pointer: Pointer,
        level: u8,
        length_bytes: u64,
    ) -> Result<StreamNode, RepoError> {
        self.record(pointer, RecordKind::StreamNode, &|raw| {
            let node = StreamNode::decode(raw, pointer.id, level, &self.keys)?;
            match node.length_bytes() == length_bytes {
                true => Ok(node),
                false => Err("the lengths below do not add up"),
            }
        })
    }

    /// The first sound record of that name. If there is none, says what is wrong where it was expected.
    fn record<T>(
        &self,
        pointer: Pointer,
        kind: RecordKind,
        prove: &dyn Fn(&Bytes) -> Result<T, &'static str>,
    ) -> Result<T, RepoError> {
        let first = match self.read(pointer.id, pointer.place, kind, prove) {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        let mut fault = first;
        let mut places = self.places().find(self.disk.as_ref(), pointer.id);
        for place in &places {
            match self.read(pointer.id, *place, kind, prove) {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {}
                Err(error) => {
                    fault.get_or_insert(error);
                }
            }
        }
        places.push(pointer.place);
        for place in places {
            // Nothing is mended: the medium may be read-only.
            let rebuilt = self.reader.read_rebuilt(place, pointer.id, kind);
            if let Ok(Some(raw)) = rebuilt
                && let Ok(found) = prove(&raw)
            {
                return Ok(found);
            }
        }
        Err(fault.unwrap_or_else(|| self.missing(pointer)))
    }

    fn read<T>(
        &self,
        id: ChunkId,
        place: Place,
        kind: RecordKind,
        prove: &dyn Fn(&Bytes) -> Result<T, &'static str>,
    ) -> Result<Option<T>, RepoError> {
        let Some(raw) = self.reader.read(place, id, kind)? else {
            return Ok(None);
        };
        prove(&raw).map(Some).map_err(|detail| RepoError::Corrupt {
            what: format!(
                "record {id} at byte {} of {}",
                place.offset(),
                self.set.describe(place.pack)
            ),
            detail: detail.to_owned(),
        })
    }

    fn missing(&self, pointer: Pointer) -> RepoError {
        let pack = pointer.place.pack;
        let detail = match self.set.summary(pack) {
            None => format!(
                "{} is gone, and no other pack has it",
                self.set.describe(pack)
            ),
            Some(_) => format!(
                "something else is at byte {} of {}, and no other pack has it",
                pointer.place.offset(),
                self.set.describe(pack)
            ),
        };
        RepoError::Corrupt {
            what: format!("record {}", pointer.id),
            detail,
        }
    }

    fn places(&self) -> Arc<Places> {
        let mut places = self.places.lock();
        if let Some(known) = places.as_ref() {
            return Arc::clone(known);
        }
        tracing::info!(packs = self.files.len(), "reading the tables of all packs");
        let gathered = Places::gather(self.disk.as_ref(), &self.files, RECORDS_MAX);
        self.complaints.lock().extend(gathered.complaints.clone());
        let gathered = Arc::new(gathered);
        *places = Some(Arc::clone(&gathered));
        gathered
    }
}

/// Records kept in memory, 16 bytes each: 1 GiB, enough for 4 TiB of chunks of a disk.
const RECORDS_MAX: usize = 64 << 20;
