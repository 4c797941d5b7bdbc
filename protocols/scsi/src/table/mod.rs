//! The one table of commands: what is dispatched, what a CDB may hold, and what REPORT SUPPORTED OPERATION CODES says.

mod definitions;

use crate::cdb::Cdb;
use crate::reservations::{self, Barred};
use crate::response::{Direction, Ending};
use crate::sense::{Sense, code};

pub(crate) use definitions::DEFINITIONS;

/// A command that this device knows.
#[derive(Debug)]
pub(crate) struct Definition {
    pub(crate) opcode: u8,
    /// For opcodes that have several: which one.
    pub(crate) action: Option<u8>,
    /// The CDB USAGE DATA without opcode and service action: a set bit is one that is looked at, every other must be
    /// zero. As long as the CDB.
    pub(crate) usage: &'static [u8],
    pub(crate) operation: Operation,
    pub(crate) data: Data,
    pub(crate) access: Access,
    pub(crate) medium: Medium,
}

/// What a command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    CompareAndWrite,
    ExtendedCopy,
    GetLbaStatus,
    Inquiry,
    ModeSelect,
    ModeSense,
    OrWrite,
    PopulateToken,
    Prefetch,
    PreventAllow,
    Read,
    ReadCapacity,
    ReadDefectData,
    ReceiveCopy,
    ReceiveDiagnostic,
    ReportLuns,
    ReportOpcodes,
    ReportPortGroups,
    ReportTaskManagement,
    RequestSense,
    SanitizeErase,
    SanitizeExit,
    Release,
    Reserve,
    ReserveIn,
    ReserveOut,
    SendDiagnostic,
    StartStop,
    SynchronizeCache,
    TestUnitReady,
    Unmap,
    Verify,
    Write,
    WriteAndVerify,
    WriteAtomic,
    WriteSame,
    WriteUsingToken,
}

/// How much data a command moves, and which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Data {
    None,
    /// To the initiator, up to the length of that many bits at that byte.
    Allocation(Field),
    /// A parameter list from the initiator.
    Parameters(Field),
    /// Its blocks to the initiator.
    ReadBlocks,
    /// Its blocks from the initiator.
    WriteBlocks,
    /// Twice its blocks from the initiator.
    TwiceBlocks,
    /// One block from the initiator, unless NDOB says none.
    OneBlock,
    /// Nothing, one block or all, as BYTCHK says.
    ByteCheck,
}

/// Where a length stands in a CDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Bits8(u8),
    Bits16(u8),
    Bits32(u8),
}

/// Which reservations of others a command respects (SPC-4, 5.13.1; SBC-3, 4.18).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// None.
    Free,
    /// Those of RESERVE alone.
    Query,
    /// Exclusive ones.
    Read,
    /// All.
    Write,
    /// START STOP UNIT.
    Start,
    /// PREVENT ALLOW MEDIUM REMOVAL.
    Prevent,
}

/// What a command does with the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Medium {
    /// Nothing.
    Untouched,
    /// It wants one that is there.
    Needed,
    /// It changes it.
    Written,
}

impl Operation {
    pub(crate) fn is_sanitize(self) -> bool {
        matches!(self, Self::SanitizeErase | Self::SanitizeExit)
    }
}

impl Field {
    pub(crate) fn value(self, cdb: &Cdb) -> u32 {
        match self {
            Self::Bits8(at) => u32::from(cdb.u8(at.into())),
            Self::Bits16(at) => u32::from(cdb.u16(at.into())),
            Self::Bits32(at) => cdb.u32(at.into()),
        }
    }
}

impl Data {
    pub(crate) fn direction(self) -> Direction {
        match self {
            Self::None => Direction::None,
            Self::Allocation(_) | Self::ReadBlocks => Direction::ToInitiator,
            Self::Parameters(_)
            | Self::WriteBlocks
            | Self::TwiceBlocks
            | Self::OneBlock
            | Self::ByteCheck => Direction::FromInitiator,
        }
    }
}

impl Definition {
    /// Finds the command of `cdb`, and refuses bits that it does not know.
    pub(crate) fn of(cdb: &Cdb) -> Result<&'static Self, Ending> {
        let opcode = cdb.opcode();
        let mut known = DEFINITIONS
            .iter()
            .filter(|definition| definition.opcode == opcode);
        let Some(first) = known.next() else {
            return Err(Sense::illegal(code::INVALID_COMMAND_OPERATION_CODE).into());
        };
        let found = match first.action {
            None => first,
            Some(_) => {
                let action = Some(cdb.service_action());
                std::iter::once(first)
                    .chain(known)
                    .find(|definition| definition.action == action)
                    .ok_or(Sense::invalid_field_in_cdb(1, Some(4)))?
            }
        };
        found.check_reserved(cdb)?;
        Ok(found)
    }

    /// Which reservations of others the command respects.
    pub(crate) fn respects(&self, cdb: &Cdb) -> Barred {
        match self.access {
            Access::Free => 0,
            Access::Query => reservations::QUERY,
            Access::Read => reservations::READ,
            Access::Write => reservations::WRITE,
            // Starting an active unit, and allowing removal, take nothing from anybody.
            Access::Start if cdb.u8(4) & 0xf1 == 0x01 => reservations::QUERY,
            Access::Prevent if cdb.u8(4) & 0x03 == 0 => 0,
            Access::Start | Access::Prevent => reservations::WRITE,
        }
    }

    /// Refuses the first bit that is set and not known.
    fn check_reserved(&self, cdb: &Cdb) -> Result<(), Ending> {
        let action = if self.action.is_some() { 0x1f } else { 0 };
        let fields = self.usage.iter().zip(cdb.bytes()).zip(0_u16..).skip(1);
        for ((&known, &byte), at) in fields {
            let known = if at == 1 { known | action } else { known };
            let unknown = byte & !known;
            if unknown != 0 {
                let bit = unknown.ilog2().try_into().unwrap_or(0);
                return Err(Sense::invalid_field_in_cdb(at, Some(bit)).into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_for_itself() {
        for (index, one) in DEFINITIONS.iter().enumerate() {
            let length = match one.opcode >> 5 {
                0 => 6,
                1 | 2 => 10,
                5 => 12,
                _ => 16,
            };
            assert_eq!(one.usage.len(), length, "{one:?}");
            assert_eq!(one.usage[0], 0, "{one:?}: the opcode is not in the table");
            for other in &DEFINITIONS[index + 1..] {
                assert!(
                    (one.opcode, one.action) != (other.opcode, other.action),
                    "{one:?} stands there twice"
                );
                assert!(
                    one.opcode != other.opcode || one.action.is_some() == other.action.is_some(),
                    "{one:?}: all or none have a service action"
                );
            }
        }
    }

    #[test]
    fn the_first_unknown_bit_is_named() {
        let mut bytes = [0; 16];
        bytes[0] = 0x28;
        bytes[1] = 0x58;
        let Err(Ending::Check(sense)) = Definition::of(&Cdb::new(&bytes)) else {
            panic!("RDPROTECT is refused");
        };
        assert_eq!(sense, Sense::invalid_field_in_cdb(1, Some(6)));
        bytes[1] = 0x18;
        assert!(Definition::of(&Cdb::new(&bytes)).is_ok());
        bytes[9] = 0x04;
        assert!(Definition::of(&Cdb::new(&bytes)).is_err(), "NACA");
    }
}
