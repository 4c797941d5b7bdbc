//! The keys of one open repository.

use std::fmt;
use std::path::{Path, PathBuf};

use uuid::Uuid;
use zeroize::Zeroizing;

use super::cipher::{Cipher, SALT_BYTES, Salt, TAG_BYTES, Tag, random};
use super::secret::MasterKey;
use crate::catalog::{WorkloadName, open_head, seal_head};
use crate::chunk::ChunkId;
use crate::error::RepoError;

/// Names and seals what the repository stores. In a repository that is not encrypted it has no keys: names are plain
/// hashes then, and sealing leaves bytes as they are. Nothing else in the engine asks which of the two it is.
pub(crate) struct KeyRing {
    keys: Option<Keys>,
}

/// Made from the master key, each for one use.
struct Keys {
    master: MasterKey,
    repository: Uuid,
    chunk_names: Zeroizing<[u8; 32]>,
    image_node_names: Zeroizing<[u8; 32]>,
    stream_node_names: Zeroizing<[u8; 32]>,
    workload_folders: Zeroizing<[u8; 32]>,
    records: Cipher,
    texts: Cipher,
}

/// What a map node belongs to, for its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeKind {
    Image,
    Stream,
}

impl KeyRing {
    /// That of a repository which is not encrypted.
    pub(crate) fn plain() -> Self {
        Self { keys: None }
    }

    /// That of an encrypted repository.
    pub(crate) fn new(master: MasterKey, repository: Uuid) -> Self {
        let key = |context| master.subkey(repository, context);
        let keys = Keys {
            chunk_names: key(CHUNK_NAMES),
            image_node_names: key(IMAGE_NODE_NAMES),
            stream_node_names: key(STREAM_NODE_NAMES),
            workload_folders: key(WORKLOAD_FOLDERS),
            records: Cipher::new(key(RECORDS)),
            texts: Cipher::new(key(TEXTS)),
            repository,
            master,
        };
        Self { keys: Some(keys) }
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        self.keys.is_some()
    }

    /// A key for one more use, named by a context that nothing else has; `None` if the repository is not encrypted.
    pub(crate) fn subkey(&self, context: &'static str) -> Option<Zeroizing<[u8; 32]>> {
        let keys = self.keys.as_ref()?;
        Some(keys.master.subkey(keys.repository, context))
    }

    /// Names `bytes`, which are not all zero.
    pub(crate) fn chunk_id(&self, bytes: &[u8]) -> ChunkId {
        match &self.keys {
            None => ChunkId::of(bytes),
            Some(keys) => {
                ChunkId::from_bytes(*blake3::keyed_hash(&keys.chunk_names, bytes).as_bytes())
            }
        }
    }

    /// Makes the name of a map node from what it is given.
    pub(crate) fn node_hasher(&self, kind: NodeKind) -> blake3::Hasher {
        match (&self.keys, kind) {
            (None, NodeKind::Image) => blake3::Hasher::new_derive_key(PLAIN_IMAGE_NODE_NAMES),
            (None, NodeKind::Stream) => blake3::Hasher::new_derive_key(PLAIN_STREAM_NODE_NAMES),
            (Some(keys), NodeKind::Image) => blake3::Hasher::new_keyed(&keys.image_node_names),
            (Some(keys), NodeKind::Stream) => blake3::Hasher::new_keyed(&keys.stream_node_names),
        }
    }

    /// What encrypts the payloads of records, if anything does.
    pub(crate) fn records(&self) -> Option<&Cipher> {
        self.keys.as_ref().map(|keys| &keys.records)
    }

    /// The folder of a workload's files. Its name says nothing of the workload in an encrypted repository.
    pub(crate) fn workload_folder(&self, workload: &WorkloadName) -> PathBuf {
        Path::new("points").join(self.folder_name(workload))
    }

    /// The name of that folder.
    pub(crate) fn folder_name(&self, workload: &WorkloadName) -> String {
        let Some(keys) = &self.keys else {
            return workload.as_str().to_owned();
        };
        let hash = blake3::keyed_hash(&keys.workload_folders, workload.as_str().as_bytes());
        let mut name = hash.to_hex().to_string();
        name.truncate(FOLDER_NAME_LETTERS);
        name
    }

    /// Whether a folder of this name can be that of a workload.
    pub(crate) fn is_folder_name(&self, name: &str) -> bool {
        match &self.keys {
            None => WorkloadName::parse(name).is_ok(),
            Some(_) => {
                name.len() == FOLDER_NAME_LETTERS
                    && name
                        .bytes()
                        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            }
        }
    }

    /// A text file of the catalog, as it is to be stored at `path`: head line and body, the body encrypted if the
    /// repository is.
    pub(crate) fn seal_text(
        &self,
        kind: &str,
        version: u32,
        path: &Path,
        body: &str,
    ) -> Result<Vec<u8>, RepoError> {
        let Some(keys) = &self.keys else {
            return Ok(seal_head(kind, version, body.as_bytes()));
        };
        let salt: Salt = random()?;
        let mut sealed = Vec::with_capacity(SALT_BYTES + body.len() + TAG_BYTES);
        sealed.extend_from_slice(&salt);
        sealed.extend_from_slice(body.as_bytes());
        let (_, bytes) = sealed.split_at_mut(SALT_BYTES);
        let tag = keys
            .texts
            .seal(&salt, &about_text(kind, version, path), bytes);
        sealed.extend_from_slice(&tag);
        Ok(seal_head(&format!("{ENCRYPTED}{kind}"), version, &sealed))
    }

    /// Version and body of a text file that [`seal_text`](Self::seal_text) made for `path`, proven. `what` is the file
    /// for a person; versions above `known` are refused.
    pub(crate) fn open_text(
        &self,
        what: &str,
        kind: &str,
        known: u32,
        path: &Path,
        text: &[u8],
    ) -> Result<(u32, String), RepoError> {
        let corrupt = |detail: &str| RepoError::Corrupt {
            what: what.to_owned(),
            detail: detail.to_owned(),
        };
        let (version, body) = match &self.keys {
            None => {
                let (version, body) = open_head(what, kind, known, text)?;
                (version, body.to_vec())
            }
            Some(keys) => {
                let kind_of_file = format!("{ENCRYPTED}{kind}");
                let (version, sealed) = open_head(what, &kind_of_file, known, text)?;
                let about = about_text(kind, version, path);
                let body = open_body(&keys.texts, &about, sealed).ok_or_else(|| {
                    corrupt("it was not encrypted with this repository's key, or for this place")
                })?;
                (version, body)
            }
        };
        let body = String::from_utf8(body).map_err(|_| corrupt("it is not text"))?;
        Ok((version, body))
    }
}

/// Salt, encrypted bytes, tag: gives the bytes in clear.
fn open_body(cipher: &Cipher, about: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (salt, rest) = sealed.split_first_chunk::<SALT_BYTES>()?;
    let (bytes, tag): (&[u8], &Tag) = rest.split_last_chunk::<TAG_BYTES>()?;
    let mut body = bytes.to_vec();
    cipher.open(salt, about, &mut body, tag).then_some(body)
}

/// What a sealed text is: of which kind and version, and where.
fn about_text(kind: &str, version: u32, path: &Path) -> Vec<u8> {
    format!("{kind} {version}\n{}", path.display()).into_bytes()
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("KeyRing")
            .field("encrypted", &self.is_encrypted())
            .finish_non_exhaustive()
    }
}

/// Before the kind in the head line of a text whose body is encrypted.
const ENCRYPTED: &str = "encrypted-";

/// Half of a hash is enough to tell workloads apart.
const FOLDER_NAME_LETTERS: usize = 32;

const PLAIN_IMAGE_NODE_NAMES: &str = "holdfast image map node v1";
const PLAIN_STREAM_NODE_NAMES: &str = "holdfast stream map node v1";

const CHUNK_NAMES: &str = "holdfast encrypted repository v1: names of chunks";
const IMAGE_NODE_NAMES: &str = "holdfast encrypted repository v1: names of image map nodes";
const STREAM_NODE_NAMES: &str = "holdfast encrypted repository v1: names of stream map nodes";
const WORKLOAD_FOLDERS: &str = "holdfast encrypted repository v1: folders of workloads";
const RECORDS: &str = "holdfast encrypted repository v1: records";
const TEXTS: &str = "holdfast encrypted repository v1: text files";

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(master: u8, repository: Uuid) -> KeyRing {
        KeyRing::new(MasterKey::from_bytes([master; 32]), repository)
    }

    #[test]
    fn names_differ_by_key_repository_and_use() {
        let rings = [
            KeyRing::plain(),
            ring(1, Uuid::nil()),
            ring(1, Uuid::max()),
            ring(2, Uuid::nil()),
        ];
        let mut names: Vec<_> = rings.iter().map(|ring| ring.chunk_id(b"x")).collect();
        for ring in &rings {
            for kind in [NodeKind::Image, NodeKind::Stream] {
                let mut hasher = ring.node_hasher(kind);
                hasher.update(b"x");
                names.push(ChunkId::from_bytes(*hasher.finalize().as_bytes()));
            }
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 12);
        let web = WorkloadName::parse("web").unwrap();
        let folders: Vec<_> = rings.iter().map(|ring| ring.folder_name(&web)).collect();
        assert_eq!(folders[0], "web");
        for (ring, folder) in rings.iter().zip(&folders) {
            assert!(ring.is_folder_name(folder), "{folder}");
        }
        assert!(!rings[1].is_folder_name("web"));
        assert!(folders[1] != folders[2] && folders[1] != folders[3]);
    }

    #[test]
    fn a_text_opens_in_its_own_place_with_its_own_key_only() {
        let path = Path::new("points/a/1");
        let one = ring(1, Uuid::nil());
        for writer in [&one, &KeyRing::plain()] {
            let text = writer.seal_text("note", 1, path, "{\"a\": 1}").unwrap();
            let (version, body) = writer.open_text("x", "note", 1, path, &text).unwrap();
            assert_eq!((version, body.as_str()), (1, "{\"a\": 1}"));
            for place in 0..text.len() {
                let mut hurt = text.clone();
                hurt[place] ^= 1;
                let opened = writer.open_text("x", "note", 1, path, &hurt);
                assert!(opened.is_err(), "byte {place}");
            }
        }
        let text = one.seal_text("note", 1, path, "{\"a\": 1}").unwrap();
        assert!(!text.windows(3).any(|three| three == b"\"a\""));
        for (reader, kind, at) in [
            (&ring(2, Uuid::nil()), "note", "points/a/1"),
            (&ring(1, Uuid::max()), "note", "points/a/1"),
            (&KeyRing::plain(), "note", "points/a/1"),
            (&one, "note", "points/a/2"),
            (&one, "point", "points/a/1"),
        ] {
            let opened = reader.open_text("x", kind, 1, Path::new(at), &text);
            assert!(opened.is_err(), "{kind} {at}");
        }
        let plain = KeyRing::plain().seal_text("note", 1, path, "{}").unwrap();
        assert!(one.open_text("x", "note", 1, path, &plain).is_err());
    }
}
