//! Questions with one answer.

use serde::de::DeserializeOwned;

use super::{Client, ClientError, patiently, unexpected};
use crate::wire::{
    Describe, Described, Entry, Frame, Kind, List, Listed, NAMES_AT_ONCE, Remove, Removed,
};

impl Client {
    /// Streams whose names begin with `prefix`, by name, behind `after`; at most `limit`.
    ///
    /// # Errors
    /// If a stream is under way, the daemon refuses, or cannot be reached.
    pub fn list(
        &mut self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Listed, ClientError> {
        let list = List {
            prefix: prefix.to_owned(),
            after: after.map(str::to_owned),
            limit: Some(limit),
        };
        self.ask(&Frame::document(Kind::List, &list), Kind::Listed)
    }

    /// What these streams are, in the order of their names; none where there is no such stream.
    ///
    /// # Errors
    /// If a stream is under way, the daemon refuses, or cannot be reached.
    pub fn describe(&mut self, names: &[&str]) -> Result<Vec<Option<Entry>>, ClientError> {
        let mut entries = Vec::new();
        for names in names.chunks(NAMES_AT_ONCE) {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            let ask = Frame::document(Kind::Describe, &Describe { names });
            let described: Described = self.ask(&ask, Kind::Described)?;
            entries.extend(described.entries);
        }
        Ok(entries)
    }

    /// Removes streams; says of each whether it was there.
    ///
    /// # Errors
    /// If a stream is under way, the daemon refuses (nothing is removed then), or cannot be reached.
    pub fn remove(&mut self, names: &[&str]) -> Result<Vec<bool>, ClientError> {
        let mut removed = Vec::new();
        for names in names.chunks(NAMES_AT_ONCE) {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            let ask = Frame::document(Kind::Remove, &Remove { names });
            let done: Removed = self.ask(&ask, Kind::Removed)?;
            removed.extend(done.removed);
        }
        Ok(removed)
    }

    /// Asks, again if the connection broke: none of these questions does harm when it is asked twice.
    fn ask<T: DeserializeOwned>(&mut self, ask: &Frame, answer: Kind) -> Result<T, ClientError> {
        self.is_idle()?;
        let limit = self.settings.resume;
        patiently(limit, || {
            self.connected()?;
            self.send(ask)?;
            let frame = self.answer()?;
            match frame.kind == answer {
                true => Ok(frame.read()?),
                false => Err(unexpected(&frame)),
            }
        })
    }
}
