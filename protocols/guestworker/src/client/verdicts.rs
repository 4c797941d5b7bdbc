//! What is not read any more, because reading it ended the process that did.
//!
//! - Who takes too long or answers nonsense is the one to blame: it is refused from then on. Requests that were under way
//!   beside it are made again.
//! - When a process dies and nobody knows of whom, all that were under way are suspects and are made again; who is under
//!   way at two deaths is refused.
//! - A volume of which three processes died is refused as a whole.

use std::collections::{HashMap, HashSet};

use export::{ExportError, FileId};

use crate::lane::LaneFault;
use crate::reader::Refusal;
use crate::wire::{NO_VOLUME, Request};

use super::connection::Connection;

/// What a request is about; no volume for all, no file for a volume as such.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Subject {
    pub(super) volume: Option<u32>,
    pub(super) file: Option<FileId>,
}

/// Who was there when processes died.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    refused: HashMap<Subject, String>,
    /// Who was under way, and in which connections.
    suspected: HashMap<Subject, HashSet<u64>>,
    /// Deaths by volume, each as its connection.
    deaths: HashMap<Option<u32>, HashSet<u64>>,
}

impl Subject {
    pub(super) fn of(request: &Request) -> Self {
        Self {
            volume: Some(request.volume).filter(|volume| *volume != NO_VOLUME),
            file: request.file(),
        }
    }
}

impl Verdicts {
    /// Says why something is not read any more.
    pub(super) fn check(&self, subject: Subject) -> Result<(), Refusal> {
        if let Some(why) = self.refused.get(&subject) {
            return Err(refusal(format!("not read any more: {why}")));
        }
        let deaths = self.deaths.get(&subject.volume).map_or(0, HashSet::len);
        if deaths >= DEATHS_MAX {
            return Err(refusal(format!(
                "not read any more: the process that reads it has ended {deaths} times"
            )));
        }
        Ok(())
    }

    /// Notes that a process ended while it was asked for something. Says whether that is news.
    pub(super) fn judge(
        &mut self,
        subject: Subject,
        connection: &Connection,
        fault: &LaneFault,
        why: String,
    ) -> bool {
        let is_culprit = fault.is_of_the_request();
        if !is_culprit && connection.culprit_is_known() {
            return false;
        }
        let deaths = self.deaths.entry(subject.volume).or_default();
        let is_news = deaths.insert(connection.number());
        let suspicions = self.suspected.entry(subject).or_default();
        suspicions.insert(connection.number());
        if is_culprit || suspicions.len() >= SUSPICIONS_MAX {
            self.refused.insert(subject, why);
        }
        is_news
    }
}

/// Damage, as far as a caller can tell: another time it will not be otherwise.
fn refusal(text: String) -> Refusal {
    ExportError::Corrupt {
        detail: text.into(),
    }
    .into()
}

const DEATHS_MAX: usize = 3;
const SUSPICIONS_MAX: usize = 2;
