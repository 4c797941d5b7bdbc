//! The rows of the table (SPC-4, clause 6; SBC-3, clause 5). The commands of the data path stand first: they are found
//! first.

use super::{Access, Data, Definition, Field, Medium, Operation};

/// A row. The usage stands in it as the standards show the CDB, from byte 0.
macro_rules! command {
    ($opcode:literal, $operation:ident, $data:expr, $access:ident, $medium:ident, $usage:expr) => {
        Definition {
            opcode: $opcode,
            action: None,
            usage: &$usage,
            operation: Operation::$operation,
            data: $data,
            access: Access::$access,
            medium: Medium::$medium,
        }
    };
    ($opcode:literal / $action:literal, $operation:ident, $data:expr, $access:ident, $medium:ident, $usage:expr) => {
        Definition {
            opcode: $opcode,
            action: Some($action),
            usage: &$usage,
            operation: Operation::$operation,
            data: $data,
            access: Access::$access,
            medium: Medium::$medium,
        }
    };
}

/// A CDB of 6 bytes with a 21-bit LBA.
const LBA6: [u8; 6] = [0, 0x1f, 0xff, 0xff, 0xff, 0];

/// A CDB of 10 bytes with LBA and length, and the bits of byte 1.
const fn lba10(flags: u8) -> [u8; 10] {
    [0, flags, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]
}

/// A CDB of 12 bytes with LBA and length, and the bits of byte 1.
const fn lba12(flags: u8) -> [u8; 12] {
    [
        0, flags, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0,
    ]
}

/// A CDB of 16 bytes with LBA and length, and the bits of byte 1.
const fn lba16(flags: u8) -> [u8; 16] {
    [
        0, flags, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0,
    ]
}

const DPO_FUA: u8 = 0x18;

use Data::{Allocation, None as NoData, Parameters, ReadBlocks, WriteBlocks};
use Field::{Bits8, Bits16, Bits32};

#[rustfmt::skip]
pub(crate) static DEFINITIONS: &[Definition] = &[
    command!(0x28, Read, ReadBlocks, Read, Needed, lba10(DPO_FUA)),
    command!(0x2a, Write, WriteBlocks, Write, Written, lba10(DPO_FUA)),
    command!(0x88, Read, ReadBlocks, Read, Needed, lba16(DPO_FUA)),
    command!(0x8a, Write, WriteBlocks, Write, Written, lba16(DPO_FUA)),

    command!(0x00, TestUnitReady, NoData, Query, Needed, [0; 6]),
    command!(0x03, RequestSense, Allocation(Bits8(4)), Free, Untouched, [0, 0x01, 0, 0, 0xff, 0]),
    command!(0x08, Read, ReadBlocks, Read, Needed, LBA6),
    command!(0x0a, Write, WriteBlocks, Write, Written, LBA6),
    command!(0x12, Inquiry, Allocation(Bits16(3)), Free, Untouched, [0, 0x01, 0xff, 0xff, 0xff, 0]),
    command!(0x15, ModeSelect, Parameters(Bits8(4)), Write, Untouched, [0, 0x11, 0, 0, 0xff, 0]),
    command!(0x1a, ModeSense, Allocation(Bits8(4)), Read, Untouched, [0, 0x08, 0xff, 0xff, 0xff, 0]),
    command!(0x25, ReadCapacity, NoData, Query, Needed, [0; 10]),
    command!(0x35, SynchronizeCache, NoData, Write, Needed, lba10(0x02)),
    command!(0x55, ModeSelect, Parameters(Bits16(7)), Write, Untouched, [0, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff, 0]),
    command!(0x5a, ModeSense, Allocation(Bits16(7)), Read, Untouched, [0, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0]),
    command!(0x91, SynchronizeCache, NoData, Write, Needed, lba16(0x02)),
    command!(0x9e / 0x10, ReadCapacity, Allocation(Bits32(10)), Query, Needed, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    command!(0xa0, ReportLuns, Allocation(Bits32(6)), Free, Untouched, [0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    command!(0xa8, Read, ReadBlocks, Read, Needed, lba12(DPO_FUA)),
    command!(0xaa, Write, WriteBlocks, Write, Written, lba12(DPO_FUA)),
];
