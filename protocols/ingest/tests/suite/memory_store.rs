//! Streams in memory, with faults on demand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ingest::{
    About, Code, Credentials, Entry, Listed, Refusal, StagedStream, StreamContent, StreamStore,
    StreamWorkload,
};

pub(crate) const TOKEN: &str = "let me in";

/// All that a store of one workload has.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) streams: BTreeMap<String, (Entry, Vec<u8>)>,
    /// Names of those under way.
    pub(crate) begun: Vec<String>,
    /// Streams that were begun and dropped.
    pub(crate) dropped: usize,
    /// Content after which there is no room.
    pub(crate) room: Option<usize>,
    /// How long a commit takes.
    pub(crate) commit_takes: Duration,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryStore(pub(crate) Arc<Mutex<Kept>>);

#[derive(Debug)]
struct Workload(MemoryStore);

struct Staged {
    store: MemoryStore,
    name: String,
    about: About,
    content: Vec<u8>,
    is_kept: bool,
}

struct Content(Vec<Bytes>);

impl StreamStore for MemoryStore {
    fn admit(&self, credentials: &Credentials<'_>) -> Result<Box<dyn StreamWorkload>, Refusal> {
        if credentials.token != Some(TOKEN) {
            return Err(Refusal::new(Code::Unauthorized, "the token is wrong"));
        }
        Ok(Box::new(Workload(self.clone())))
    }
}

impl StreamWorkload for Workload {
    fn name(&self) -> &str {
        "orders"
    }

    fn holder(&self) -> &str {
        "somebody"
    }

    fn begin(&self, name: &str, about: &About) -> Result<Box<dyn StagedStream>, Refusal> {
        let mut kept = self.0.0.lock().unwrap();
        if kept.streams.contains_key(name) || kept.begun.iter().any(|begun| begun == name) {
            return Err(Refusal::new(
                Code::Exists,
                format!("there is {name} already"),
            ));
        }
        kept.begun.push(name.to_owned());
        Ok(Box::new(Staged {
            store: self.0.clone(),
            name: name.to_owned(),
            about: about.clone(),
            content: Vec::new(),
            is_kept: false,
        }))
    }

    fn open(&self, name: &str, offset: u64) -> Result<(Entry, Box<dyn StreamContent>), Refusal> {
        let kept = self.0.0.lock().unwrap();
        let found = kept.streams.get(name);
        let (entry, content) =
            found.ok_or_else(|| Refusal::new(Code::NotFound, format!("there is no {name}")))?;
        let rest = &content[usize::try_from(offset).unwrap()..];
        let mut pieces: Vec<_> = rest.chunks(100_000).map(Bytes::copy_from_slice).collect();
        pieces.reverse();
        Ok((entry.clone(), Box::new(Content(pieces))))
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Listed, Refusal> {
        let kept = self.0.0.lock().unwrap();
        let mut found = kept
            .streams
            .iter()
            .filter(|(name, _)| {
                name.starts_with(prefix) && after.is_none_or(|after| name.as_str() > after)
            })
            .map(|(_, (entry, _))| entry.clone());
        let entries: Vec<_> = found.by_ref().take(limit).collect();
        let more = found.next().is_some();
        Ok(Listed { entries, more })
    }

    fn describe(&self, names: &[String]) -> Result<Vec<Option<Entry>>, Refusal> {
        let kept = self.0.0.lock().unwrap();
        let entry = |name: &String| kept.streams.get(name).map(|(entry, _)| entry.clone());
        Ok(names.iter().map(entry).collect())
    }

    fn remove(&self, names: &[String]) -> Result<Vec<bool>, Refusal> {
        let mut kept = self.0.0.lock().unwrap();
        Ok(names
            .iter()
            .map(|name| kept.streams.remove(name).is_some())
            .collect())
    }
}

impl StagedStream for Staged {
    fn append(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let room = self.store.0.lock().unwrap().room;
        if room.is_some_and(|room| self.content.len() + bytes.len() > room) {
            return Err(Refusal::new(Code::StorageFull, "the storage is full"));
        }
        self.content.extend_from_slice(bytes);
        Ok(())
    }

    fn commit(mut self: Box<Self>) -> Result<Entry, Refusal> {
        let takes = self.store.0.lock().unwrap().commit_takes;
        std::thread::sleep(takes);
        let mut kept = self.store.0.lock().unwrap();
        let entry = Entry {
            name: self.name.clone(),
            size_bytes: self.content.len() as u64,
            stored_bytes: 1,
            created: "2026-11-27T00:00:00Z".to_owned(),
            point: format!("orders@{}", kept.streams.len() + 1),
            about: self.about.clone(),
        };
        let content = std::mem::take(&mut self.content);
        kept.streams
            .insert(self.name.clone(), (entry.clone(), content));
        drop(kept);
        self.is_kept = true;
        Ok(entry)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let mut kept = self.store.0.lock().unwrap();
        kept.begun.retain(|begun| *begun != self.name);
        kept.dropped += usize::from(!self.is_kept);
    }
}

impl StreamContent for Content {
    fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        Ok(self.0.pop())
    }
}
