//! What Rock Ridge says of a file.

use std::ops::ControlFlow;

use export::{SpecialFile, Timestamp};

use super::Iso;
use super::record::{Names, Record, long_time, short_time};
use crate::GuestError;
use crate::bytes::View;

/// What the entries of a record say together.
#[derive(Debug, Clone, Default)]
pub(super) struct RockRidge {
    pub mode: Option<u32>,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    device: Option<(u32, u32)>,
    pub name: Option<Vec<u8>>,
    pub target: Option<Vec<u8>>,
    pub created: Option<Timestamp>,
    pub modified: Option<Timestamp>,
    pub accessed: Option<Timestamp>,
    pub changed: Option<Timestamp>,
    /// Where a folder really is that had to be put elsewhere, in blocks.
    pub child: Option<u64>,
    /// What really holds a folder that had to be put elsewhere, in blocks.
    pub parent: Option<u64>,
    /// Whether this is the place to which a folder was put.
    pub is_put_here: bool,
    /// What this reader does not know to read.
    pub unsupported: Option<&'static str>,
    name_goes_on: bool,
    link: LinkState,
}

/// How the parts of a link are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum LinkState {
    /// The next part is the first, or follows a slash.
    #[default]
    Begins,
    /// The next part belongs to the one before.
    GoesOn,
    /// The next part needs a slash before it.
    NeedsSlash,
}

impl Iso {
    /// How many bytes are before each record's entries, if names and attributes are those of Rock Ridge.
    pub(super) fn rock_ridge_skip(&self) -> Result<Option<usize>, GuestError> {
        let Some(own) = Record::read(self, self.top.at)? else {
            return Ok(None);
        };
        let mut skip = None;
        let mut is_known = false;
        self.system_use(&own, 0, &mut |letters, entry| {
            match &letters {
                b"SP" if entry.slice(4, 2)? == [0xBE, 0xEF] => skip = Some(entry.u8(6)?.into()),
                b"ER" => {
                    let length = usize::from(entry.u8(4)?);
                    is_known |= KNOWN.contains(&entry.slice(8, length)?);
                }
                b"RR" | b"PX" => is_known = true,
                _ => {}
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(skip.filter(|_| is_known))
    }

    /// What Rock Ridge says of a record; nothing if names are others'.
    pub(super) fn rock_ridge(&self, record: &Record) -> Result<RockRidge, GuestError> {
        let mut found = RockRidge::default();
        if let Names::RockRidge { skip } = self.names {
            // The first record of all has an entry that says how many bytes to skip, which are not before it.
            let is_top = record.at == self.top.at;
            let skip = if is_top { 0 } else { skip };
            self.system_use(record, skip, &mut |letters, entry| {
                found.add(letters, entry)?;
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(found)
    }
}

impl RockRidge {
    fn add(&mut self, letters: [u8; 2], entry: View<'_>) -> Result<(), GuestError> {
        match &letters {
            b"PX" => {
                self.mode = Some(entry.u32(4)?);
                self.links = entry.u32(12)?;
                self.uid = entry.u32(20)?;
                self.gid = entry.u32(28)?;
            }
            b"PN" => self.device = Some((entry.u32(4)?, entry.u32(12)?)),
            b"NM" => self.add_name(entry)?,
            b"SL" => self.add_link(entry)?,
            b"TF" => self.add_times(entry)?,
            b"CL" => self.child = Some(entry.u32(4)?.into()),
            b"PL" => self.parent = Some(entry.u32(4)?.into()),
            b"RE" => self.is_put_here = true,
            b"SF" => self.unsupported = Some("a sparse file of Rock Ridge"),
            b"ZF" => self.unsupported = Some("a file that is compressed by zisofs"),
            _ => {}
        }
        Ok(())
    }

    fn add_name(&mut self, entry: View<'_>) -> Result<(), GuestError> {
        let flags = entry.u8(4)?;
        let part = entry.slice(5, entry.len().saturating_sub(5))?;
        if flags & (OWN | ABOVE) != 0 {
            return Ok(());
        }
        match &mut self.name {
            Some(name) if self.name_goes_on => name.extend_from_slice(part),
            Some(_) => {}
            None => self.name = Some(part.to_vec()),
        }
        self.name_goes_on = flags & CONTINUES != 0;
        Ok(())
    }

    fn add_link(&mut self, entry: View<'_>) -> Result<(), GuestError> {
        let target = self.target.get_or_insert_default();
        let mut at = 5;
        while at + 2 <= entry.len() {
            let flags = entry.u8(at)?;
            let length = usize::from(entry.u8(at + 1)?);
            let part: &[u8] = match flags & !CONTINUES {
                OWN => b".",
                ABOVE => b"..",
                ROOT => b"",
                0 => entry.slice(at + 2, length)?,
                _ => return Err(entry.corrupt("a part of the link is of an unknown kind")),
            };
            if self.link == LinkState::NeedsSlash {
                target.push(b'/');
            }
            if flags & ROOT != 0 {
                target.clear();
                target.push(b'/');
            }
            target.extend_from_slice(part);
            self.link = match flags {
                _ if flags & CONTINUES != 0 => LinkState::GoesOn,
                _ if flags & ROOT != 0 => LinkState::Begins,
                _ => LinkState::NeedsSlash,
            };
            at += 2 + length;
        }
        if target.len() > TARGET_MAX {
            return Err(entry.corrupt("the link is too long"));
        }
        Ok(())
    }

    fn add_times(&mut self, entry: View<'_>) -> Result<(), GuestError> {
        let flags = entry.u8(4)?;
        let is_long = flags & LONG_TIMES != 0;
        let mut at = 5;
        let fields = [
            &mut self.created,
            &mut self.modified,
            &mut self.accessed,
            &mut self.changed,
        ];
        for (bit, field) in fields.into_iter().enumerate() {
            if flags >> bit & 1 == 0 {
                continue;
            }
            if is_long {
                *field = Some(long_time(entry.array(at)?));
                at += 17;
            } else {
                *field = Some(short_time(entry.array(at)?));
                at += 7;
            }
        }
        Ok(())
    }

    /// What a file without content is.
    pub(super) fn special(&self) -> Option<SpecialFile> {
        let (high, low) = self.device.unwrap_or_default();
        // Some put all of the number into the low half, in the way in which Linux has it.
        let (major, minor) = match (high, low) {
            (0, low) if low > 0xFF => (low >> 8 & 0xFFF, low & 0xFF | low >> 12 & 0xF_FF00),
            other => other,
        };
        match self.mode? & TYPE {
            0x1000 => Some(SpecialFile::Fifo),
            0x2000 => Some(SpecialFile::CharacterDevice { major, minor }),
            0x6000 => Some(SpecialFile::BlockDevice { major, minor }),
            0xC000 => Some(SpecialFile::Socket),
            _ => None,
        }
    }

    pub(super) fn is_link(&self) -> bool {
        self.mode.is_some_and(|mode| mode & TYPE == SYMLINK)
    }
}

/// Names under which Rock Ridge is known.
const KNOWN: [&[u8]; 3] = [b"RRIP_1991A", b"IEEE_P1282", b"IEEE_1282"];
const CONTINUES: u8 = 1;
const OWN: u8 = 2;
const ABOVE: u8 = 4;
const ROOT: u8 = 8;
const LONG_TIMES: u8 = 0x80;
const TYPE: u32 = 0xF000;
const SYMLINK: u32 = 0xA000;
/// Longest path that Linux takes.
const TARGET_MAX: usize = 4096;
