//! The port mapper, version 2 (RFC 1833, part 3).

use bytes::BufMut;

use super::xdr::{Malformed, Reader, Writer};

/// `mapping` (RFC 1833, 3.1): where a program listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) program: u32,
    pub(crate) version: u32,
    /// `PROTOCOL_TCP` or `PROTOCOL_UDP`.
    pub(crate) protocol: u32,
    pub(crate) port: u32,
}

impl Mapping {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            program: reader.u32()?,
            version: reader.u32()?,
            protocol: reader.u32()?,
            port: reader.u32()?,
        })
    }

    pub(crate) fn encode<B: BufMut>(&self, out: &mut Writer<'_, B>) {
        for value in [self.program, self.version, self.protocol, self.port] {
            out.u32(value);
        }
    }
}

pub(crate) const PROGRAM: u32 = 100_000;
pub(crate) const VERSION: u32 = 2;
pub(crate) const PROCEDURE_NULL: u32 = 0;
pub(crate) const PROCEDURE_SET: u32 = 1;
pub(crate) const PROCEDURE_UNSET: u32 = 2;
pub(crate) const PROCEDURE_GETPORT: u32 = 3;
pub(crate) const PROCEDURE_DUMP: u32 = 4;
pub(crate) const PROTOCOL_TCP: u32 = 6;
pub(crate) const PROTOCOL_UDP: u32 = 17;
