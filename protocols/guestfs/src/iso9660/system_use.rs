//! Entries that records carry behind their names, and where they go on elsewhere.

use std::ops::ControlFlow;

use super::Iso;
use super::record::Record;
use crate::GuestError;
use crate::bytes::{View, to_usize};

/// Takes the two letters of an entry and all of it.
type Visit<'v> = &'v mut dyn FnMut([u8; 2], View<'_>) -> Result<ControlFlow<()>, GuestError>;

impl Iso {
    /// Calls `visit` with every entry of a record, by its two letters.
    pub(super) fn system_use(
        &self,
        record: &Record,
        skip: usize,
        visit: Visit<'_>,
    ) -> Result<(), GuestError> {
        let place = record.place();
        let mut area = record
            .system_use()?
            .get(skip..)
            .unwrap_or_default()
            .to_vec();
        for _ in 0..AREAS_MAX {
            let mut more = None;
            let mut at = 0;
            let view = View::new(&area, place);
            // Less than the head of an entry is padding.
            while at + HEAD_BYTES <= area.len() {
                let letters: [u8; 2] = view.array(at)?;
                let length = usize::from(view.u8(at + 2)?);
                if letters == [0, 0] || length == 0 {
                    break;
                }
                if length < HEAD_BYTES {
                    return Err(view.corrupt("an entry behind its name is too short"));
                }
                let entry = View::new(view.slice(at, length)?, place);
                at += length;
                match &letters {
                    b"ST" => break,
                    b"CE" => {
                        let block = u64::from(entry.u32(4)?);
                        let from = self.block_at(block).saturating_add(entry.u32(12)?.into());
                        more = Some((from, u64::from(entry.u32(20)?)));
                    }
                    _ => {
                        if visit(letters, entry)?.is_break() {
                            return Ok(());
                        }
                    }
                }
            }
            let Some((from, length)) = more else {
                return Ok(());
            };
            if length > AREA_BYTES_MAX {
                return Err(record.view().corrupt("what goes on elsewhere is too long"));
            }
            area = self.pages.read(from, to_usize(length))?.to_vec();
        }
        Err(record.view().corrupt("it goes on elsewhere too often"))
    }
}

const HEAD_BYTES: usize = 4;
const AREA_BYTES_MAX: u64 = 32 << 10;
const AREAS_MAX: usize = 64;
