//! The streams of one workload, as far as a client may reach them.

use std::sync::Arc;

use ingest::{About, Code, Entry, Listed, Refusal, StagedStream, StreamContent, StreamWorkload};
use repo::{Repository, WorkloadName};

use super::names::{Names, Taken};
use super::refusal::refusal;
use super::staged::{Content, Staged};
use super::{KIND, PART};

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rights {
    /// Everything.
    All,
    /// Bring streams and see which there are: who holds this can destroy nothing.
    Bring,
    /// See which there are.
    Look,
}

#[derive(Debug)]
pub(super) struct Reachable {
    pub(super) repository: Repository,
    pub(super) names: Arc<Names>,
    pub(super) workload: WorkloadName,
    pub(super) holder: String,
    pub(super) rights: Rights,
}

impl Reachable {
    fn allow(&self, enough: &[Rights], what: &str) -> Result<(), Refusal> {
        if enough.contains(&self.rights) {
            return Ok(());
        }
        let message = format!(
            "{} may not {what} streams; use a token with the role streams (`holdfast token add NAME --role streams --workload {}`)",
            self.holder, self.workload
        );
        Err(Refusal::new(Code::Unauthorized, message))
    }

    fn missing(&self, name: &str) -> Refusal {
        Refusal::new(
            Code::NotFound,
            format!("{} has no stream {name}", self.workload),
        )
    }
}

impl StreamWorkload for Reachable {
    fn name(&self) -> &str {
        self.workload.as_str()
    }

    fn holder(&self) -> &str {
        &self.holder
    }

    fn begin(&self, name: &str, about: &About) -> Result<Box<dyn StagedStream>, Refusal> {
        self.allow(&[Rights::All, Rights::Bring], "bring")?;
        let reservation = self.names.reserve(&self.workload, name).map_err(|taken| {
            let message = match taken {
                Taken::Kept => format!(
                    "{} has a stream {name} already, which is never written over; take another name or remove it",
                    self.workload
                ),
                Taken::UnderWay => format!(
                    "somebody else is bringing a stream {name} of {}; take another name or wait",
                    self.workload
                ),
            };
            Refusal::new(Code::Exists, message)
        })?;
        let begun = self.repository.begin(&self.workload, KIND);
        let begun = begun.and_then(|mut backup| Ok((backup.stream(PART)?, backup)));
        let (writer, backup) = begun.map_err(|error| refusal(&error))?;
        Ok(Box::new(Staged {
            backup,
            writer,
            about: about.clone(),
            reservation,
        }))
    }

    fn open(&self, name: &str, offset: u64) -> Result<(Entry, Box<dyn StreamContent>), Refusal> {
        self.allow(&[Rights::All], "get")?;
        let found = self.names.find(&self.workload, name);
        let (point, entry) = found.ok_or_else(|| self.missing(name))?;
        if offset > entry.size_bytes {
            let message = format!("the stream {name} has {} bytes", entry.size_bytes);
            return Err(Refusal::new(Code::Invalid, message));
        }
        let mut reader = self
            .repository
            .stream(&point, PART)
            .map_err(|error| refusal(&error))?;
        reader.skip(offset).map_err(|error| refusal(&error))?;
        Ok((entry, Box::new(Content(reader))))
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Listed, Refusal> {
        let mut listed = Listed::default();
        let mut bytes = 0;
        self.names
            .visit(&self.workload, prefix, after, &mut |entry| {
                let length = serde_json::to_vec(&entry).map_or(0, |text| text.len());
                bytes += length;
                if listed.entries.len() == limit || bytes > LISTED_BYTES_MAX {
                    listed.more = true;
                    return false;
                }
                listed.entries.push(entry);
                true
            });
        Ok(listed)
    }

    fn describe(&self, names: &[String]) -> Result<Vec<Option<Entry>>, Refusal> {
        let entry = |name: &String| {
            self.names
                .find(&self.workload, name)
                .map(|(_, entry)| entry)
        };
        Ok(names.iter().map(entry).collect())
    }

    fn remove(&self, names: &[String]) -> Result<Vec<bool>, Refusal> {
        self.allow(&[Rights::All], "remove")?;
        let found: Vec<_> = names
            .iter()
            .map(|name| self.names.find(&self.workload, name))
            .collect();
        for (point, entry) in found.iter().flatten() {
            let marks = self.repository.marks(&point.name);
            if marks.starred || !marks.locks.is_empty() || marks.damaged.is_some() {
                let message = format!(
                    "the stream {} is kept by a star or lock on {}; nothing was removed",
                    entry.name, point.name
                );
                return Err(Refusal::new(Code::Kept, message));
            }
        }
        let mut removed = Vec::new();
        for found in found {
            let gone = match found {
                Some((point, _)) => {
                    let expired = self.repository.expire(&point.name);
                    expired.map_err(|error| refusal(&error))?;
                    true
                }
                None => false,
            };
            removed.push(gone);
        }
        Ok(removed)
    }
}

/// What of a list fits an answer.
const LISTED_BYTES_MAX: usize = 900 << 10;
