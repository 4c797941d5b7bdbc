//! Volume descriptors: where the trees begin.

use crate::bytes::{View, to_usize};
use crate::{GuestError, Place, Source};

/// What the descriptors say.
#[derive(Debug)]
pub(super) struct Descriptors {
    pub primary: Top,
    /// Another tree, with names in UTF-16.
    pub joliet: Option<Top>,
    pub total_bytes: u64,
}

/// The top of a tree.
#[derive(Debug, Clone, Copy)]
pub(super) struct Top {
    /// In which units places are counted.
    pub block_bytes: u64,
    /// Where the folder begins.
    pub at: u64,
}

impl Descriptors {
    pub(super) fn read(source: &dyn Source) -> Result<Self, GuestError> {
        let mut primary = None;
        let mut joliet = None;
        let mut number = FIRST_SECTOR;
        while number < FIRST_SECTOR + DESCRIPTORS_MAX
            && (number + 1) * SECTOR_BYTES <= source.length_bytes()
        {
            let sector = source
                .read(number * SECTOR_BYTES, to_usize(SECTOR_BYTES))?
                .to_vec();
            let view = View::new(&sector, Place::VolumeDescriptor { sector: number });
            number += 1;
            if view.slice(1, 5)? != b"CD001" {
                break;
            }
            match view.u8(0)? {
                PRIMARY if primary.is_none() => {
                    let total = u64::from(view.u32(80)?) * u64::from(view.u16(128)?);
                    primary = Some((Top::decode(view)?, total));
                }
                SUPPLEMENTARY if joliet.is_none() && is_joliet(view)? => {
                    joliet = Some(Top::decode(view)?);
                }
                END => break,
                _ => {}
            }
        }
        let Some((primary, total_bytes)) = primary else {
            return Err(GuestError::corrupt(
                Place::VolumeDescriptor {
                    sector: FIRST_SECTOR,
                },
                "there is no primary one",
            ));
        };
        if has_udf(source, number)? {
            tracing::debug!("there is a tree of UDF too, which is not read");
        }
        Ok(Self {
            primary,
            joliet,
            total_bytes: total_bytes.min(source.length_bytes()),
        })
    }
}

impl Top {
    fn decode(view: View<'_>) -> Result<Self, GuestError> {
        let block_bytes = u64::from(view.u16(128)?);
        if !block_bytes.is_power_of_two() || !(512..=SECTOR_BYTES).contains(&block_bytes) {
            return Err(view.corrupt("the size of a block is impossible"));
        }
        let first = u64::from(view.u32(156 + 2)?) + u64::from(view.u8(156 + 1)?);
        if first == 0 {
            return Err(view.corrupt("the folder at the top is nowhere"));
        }
        Ok(Self {
            block_bytes,
            at: first * block_bytes,
        })
    }
}

/// Whether names are those of Joliet, in any of its three levels.
fn is_joliet(view: View<'_>) -> Result<bool, GuestError> {
    let escapes = view.slice(88, 32)?;
    let mut windows = escapes.windows(3);
    Ok(windows.any(|escape| matches!(escape, b"%/@" | b"%/C" | b"%/E")))
}

/// Whether descriptors of UDF follow.
fn has_udf(source: &dyn Source, from: u64) -> Result<bool, GuestError> {
    for sector in from..from + 4 {
        let at = sector * SECTOR_BYTES;
        if at + SECTOR_BYTES > source.length_bytes() {
            break;
        }
        let name = source.read(at + 1, 5)?.to_vec();
        if matches!(name.as_slice(), b"NSR02" | b"NSR03") {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) const SECTOR_BYTES: u64 = 2048;
const FIRST_SECTOR: u64 = 16;
const DESCRIPTORS_MAX: u64 = 64;
const PRIMARY: u8 = 1;
const SUPPLEMENTARY: u8 = 2;
const END: u8 = 255;
