//! Errors: the part that a program understands, and the text for people.

use std::sync::Arc;

use export::ExportError;

use super::{Body, Fields, Malformed, Wire};
use crate::Refusal;

impl Wire for ExportError {
    fn encode(self, body: &mut Body) {
        let number = match &self {
            Self::OutOfRange { .. } => OUT_OF_RANGE,
            Self::ReadOnly => 2,
            Self::NotFound => 3,
            Self::Stale => 4,
            Self::Exists => 5,
            Self::NotDirectory => 6,
            Self::IsDirectory => 7,
            Self::NotEmpty => 8,
            Self::BadName => 9,
            Self::NameTooLong => 10,
            Self::NotPermitted => 11,
            Self::Encrypted => 12,
            Self::Invalid => 13,
            Self::NotSupported => 14,
            Self::TooLarge => 15,
            Self::NoSpace { .. } => NO_SPACE,
            Self::Corrupt { .. } => CORRUPT,
            Self::ShuttingDown => 19,
            // Also what this version has no number for.
            _ => STORAGE,
        };
        body.u8(number);
        match self {
            Self::OutOfRange { offset, length } => {
                body.u64(offset);
                body.u64(length);
            }
            Self::NoSpace { detail } | Self::Corrupt { detail } | Self::Storage { detail } => {
                body.text(&detail);
            }
            other if number == STORAGE => body.text(&other.to_string()),
            _ => {}
        }
    }

    fn decode(fields: &mut Fields) -> Result<Self, Malformed> {
        Ok(match fields.u8()? {
            OUT_OF_RANGE => Self::OutOfRange {
                offset: fields.u64()?,
                length: fields.u64()?,
            },
            2 => Self::ReadOnly,
            3 => Self::NotFound,
            4 => Self::Stale,
            5 => Self::Exists,
            6 => Self::NotDirectory,
            7 => Self::IsDirectory,
            8 => Self::NotEmpty,
            9 => Self::BadName,
            10 => Self::NameTooLong,
            11 => Self::NotPermitted,
            12 => Self::Encrypted,
            13 => Self::Invalid,
            14 => Self::NotSupported,
            15 => Self::TooLarge,
            NO_SPACE => Self::NoSpace {
                detail: detail(fields)?,
            },
            CORRUPT => Self::Corrupt {
                detail: detail(fields)?,
            },
            STORAGE => Self::Storage {
                detail: detail(fields)?,
            },
            19 => Self::ShuttingDown,
            _ => return Err(Malformed("an unknown error")),
        })
    }
}

fn detail(fields: &mut Fields) -> Result<Arc<str>, Malformed> {
    fields.text().map(Arc::from)
}

impl Wire for Refusal {
    fn encode(self, body: &mut Body) {
        body.text(&self.to_string());
        self.cause().clone().encode(body);
    }

    fn decode(fields: &mut Fields) -> Result<Self, Malformed> {
        let text = fields.text()?;
        Ok(Self::new(text, ExportError::decode(fields)?))
    }
}

const OUT_OF_RANGE: u8 = 1;
const NO_SPACE: u8 = 16;
const CORRUPT: u8 = 17;
const STORAGE: u8 = 18;
