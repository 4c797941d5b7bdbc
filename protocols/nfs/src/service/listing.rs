//! READDIR and READDIRPLUS.

use bytes::{BufMut, BytesMut};
use export::{Attributes, DirectoryEntry};

use super::request::{Fault, Located, Request, Step};
use crate::access::Rights;
use crate::error::Status;
use crate::handle::HANDLE_BYTES;
use crate::wire::nfs3::{self, ATTRIBUTES_BYTES};
use crate::wire::xdr::Writer;

/// Which of the two procedures an entry is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Plus,
}

/// What the client has room for.
#[derive(Debug, Clone, Copy)]
struct Room {
    /// Of all results together.
    results: usize,
    /// Of names, cookies and file ids alone (`dircount`).
    names: usize,
}

impl Request<'_> {
    /// RFC 1813, 3.3.16.
    pub(super) fn readdir(&mut self, out: &mut BytesMut) -> Result<Step, Fault> {
        let handle = self.handle()?;
        let cookie = self.arguments.u64()?;
        let verifier = self.arguments.array()?;
        let results = self.room()?;
        let at = self.locate(handle)?;
        let room = Room {
            results,
            names: results,
        };
        self.list(&at, cookie, verifier, room, Form::Plain, out)
    }

    /// RFC 1813, 3.3.17.
    pub(super) fn readdirplus(&mut self, out: &mut BytesMut) -> Result<Step, Fault> {
        let handle = self.handle()?;
        let cookie = self.arguments.u64()?;
        let verifier = self.arguments.array()?;
        let names = self.room()?;
        let results = self.room()?;
        let at = self.locate(handle)?;
        self.list(
            &at,
            cookie,
            verifier,
            Room { results, names },
            Form::Plus,
            out,
        )
    }

    fn room(&mut self) -> Result<usize, Fault> {
        let count = self.arguments.u32()?.min(self.service.transfer_bytes);
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }

    fn list(
        &self,
        at: &Located,
        cookie: u64,
        verifier: [u8; 8],
        room: Room,
        form: Form,
        out: &mut BytesMut,
    ) -> Result<Step, Fault> {
        at.require(Rights::READ)?;
        let directory = at.attributes()?;
        // Cookies hold for ever, so the verifier is a constant; a foreign one comes with foreign cookies.
        if cookie != 0 && verifier != COOKIE_VERIFIER && verifier != [0; 8] {
            return Err(Status::BadCookie.into());
        }
        let first = out.len();
        out.put_u32(0);
        nfs3::encode_post(&mut Writer::new(out), Some(&directory), at.export.id);
        out.put_slice(&COOKIE_VERIFIER);
        let mut page = Page {
            first,
            room,
            form,
            names: 0,
            entries: 0,
            out,
        };
        let end = self.fill(at, &directory, cookie, &mut page)?;
        if page.entries == 0 && !end {
            return Err(Status::TooSmall.into());
        }
        out.put_u32(0);
        out.put_u32(u32::from(end));
        Ok(Step::done())
    }

    /// Writes entries until the page or the folder ends; whether it was the folder.
    fn fill(
        &self,
        at: &Located,
        directory: &Attributes,
        mut cookie: u64,
        page: &mut Page<'_>,
    ) -> Result<bool, Fault> {
        if cookie < SELF_COOKIE && !self.put_dot(at, directory, b".", SELF_COOKIE, page)? {
            return Ok(false);
        }
        if cookie < PARENT_COOKIE && !self.put_dot(at, directory, b"..", PARENT_COOKIE, page)? {
            return Ok(false);
        }
        if cookie <= PARENT_COOKIE {
            cookie = 0;
        }
        loop {
            let wanted = page.estimate();
            let entries = at.tree().list(at.file, cookie, wanted)?;
            let end = entries.len() < wanted;
            for entry in entries {
                if !page.put(self, at, &entry) {
                    return Ok(false);
                }
                cookie = entry.cookie;
            }
            if end {
                return Ok(true);
            }
        }
    }

    fn put_dot(
        &self,
        at: &Located,
        directory: &Attributes,
        name: &[u8],
        cookie: u64,
        page: &mut Page<'_>,
    ) -> Result<bool, Fault> {
        let (file, attributes) = if cookie == SELF_COOKIE {
            (at.file, *directory)
        } else {
            let parent = at.tree().lookup(at.file, b"..")?;
            (parent, at.tree().attributes(parent)?)
        };
        let entry = DirectoryEntry {
            file,
            name: name.to_vec(),
            cookie,
            attributes,
        };
        Ok(page.put(self, at, &entry))
    }
}

/// Results that are being filled.
#[derive(Debug)]
struct Page<'a> {
    /// Where the results begin in `out`.
    first: usize,
    room: Room,
    form: Form,
    /// Bytes that names, cookies and file ids have taken.
    names: usize,
    entries: usize,
    out: &'a mut BytesMut,
}

impl Page<'_> {
    /// Writes an entry (`entry3` or `entryplus3`) if there is room for it and for the end of the list.
    fn put(&mut self, request: &Request<'_>, at: &Located, entry: &DirectoryEntry) -> bool {
        let name = 8 + 4 + entry.name.len().next_multiple_of(4) + 8;
        let size = 4
            + name
            + if self.form == Form::Plus {
                PLUS_BYTES
            } else {
                0
            };
        // The status word is not counted: the limits speak of READDIR3resok.
        let used = self.out.len() - self.first - 4;
        if used + size + END_BYTES > self.room.results {
            return false;
        }
        if self.form == Form::Plus && self.entries > 0 && self.names + name > self.room.names {
            return false;
        }
        self.names += name;
        self.entries += 1;
        let out = &mut Writer::new(self.out);
        out.bool(true);
        out.u64(entry.file.0);
        out.opaque(&entry.name);
        out.u64(entry.cookie);
        if self.form == Form::Plus {
            nfs3::encode_post(out, Some(&entry.attributes), at.export.id);
            let handle = at.handle_of(request.service, entry.file);
            out.optional(Some(handle), |out, handle| out.opaque(&handle));
        }
        true
    }

    /// How many entries may still fit, so that little is asked for in vain.
    fn estimate(&self) -> usize {
        let left = self
            .room
            .results
            .saturating_sub(self.out.len() - self.first);
        let each = 40
            + if self.form == Form::Plus {
                PLUS_BYTES
            } else {
                0
            };
        (left / each).clamp(1, BATCH_MAX)
    }
}

const COOKIE_VERIFIER: [u8; 8] = *b"hf-list1";
const SELF_COOKIE: u64 = 1;
const PARENT_COOKIE: u64 = 2;
const BATCH_MAX: usize = 512;
const END_BYTES: usize = 8;
/// Attributes and a handle, each with the word that says that it is there.
const PLUS_BYTES: usize = 4 + ATTRIBUTES_BYTES + 4 + 4 + HANDLE_BYTES;
