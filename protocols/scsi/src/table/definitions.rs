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
    [0, flags, 0xff, 0xff, 0xff, 0xff, GROUP, 0xff, 0xff, 0]
}

/// A CDB of 12 bytes with LBA and length, and the bits of byte 1.
const fn lba12(flags: u8) -> [u8; 12] {
    [
        0, flags, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, GROUP, 0,
    ]
}

/// A CDB of 16 bytes with LBA and length, and the bits of byte 1.
const fn lba16(flags: u8) -> [u8; 16] {
    [
        0, flags, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, GROUP, 0,
    ]
}

/// GROUP NUMBER. Nothing is counted by groups, and a number harms nobody.
const GROUP: u8 = 0x1f;
const DPO_FUA: u8 = 0x18;
const DPO: u8 = 0x10;
const BYTCHK: u8 = 0x06;
const IMMED: u8 = 0x02;
/// SYNC_NV of SBC-3: up to a cache that keeps its content is enough. All that is flushed goes further.
const SYNC_NV: u8 = 0x04;
const ANCHOR: u8 = 0x10;
const UNMAP: u8 = 0x08;
const NDOB: u8 = 0x01;

const COPY: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0];
const TOKEN: [u8; 16] = [
    0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0,
];
const RESULTS: [u8; 16] = [
    0, 0, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0,
];
const WIDE_RESULTS: [u8; 16] = [
    0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0,
];
const RESERVE_IN: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0];
/// Scope and type are passed over where they mean nothing.
const RESERVE_OUT: [u8; 10] = [0, 0, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0];

use Data::{
    Allocation, ByteCheck, None as NoData, OneBlock, Parameters, ReadBlocks, TwiceBlocks,
    WriteBlocks,
};
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
    command!(0x15, ModeSelect, Parameters(Bits8(4)), Write, Untouched, [0, 0x10, 0, 0, 0xff, 0]),
    command!(0x16, Reserve, NoData, Free, Untouched, [0; 6]),
    command!(0x17, Release, NoData, Free, Untouched, [0; 6]),
    command!(0x1a, ModeSense, Allocation(Bits8(4)), Read, Untouched, [0, 0x08, 0xff, 0xff, 0xff, 0]),
    command!(0x1b, StartStop, NoData, Start, Untouched, [0, 0x01, 0, 0x0f, 0xf7, 0]),
    command!(0x1c, ReceiveDiagnostic, Allocation(Bits16(3)), Read, Untouched, [0, 0x01, 0xff, 0xff, 0xff, 0]),
    command!(0x1d, SendDiagnostic, Parameters(Bits16(3)), Write, Untouched, [0, 0x14, 0, 0xff, 0xff, 0]),
    command!(0x1e, PreventAllow, NoData, Prevent, Untouched, [0, 0, 0, 0, 0x03, 0]),
    command!(0x25, ReadCapacity, NoData, Query, Needed, [0; 10]),
    command!(0x2e, WriteAndVerify, WriteBlocks, Write, Written, lba10(DPO | BYTCHK)),
    command!(0x2f, Verify, ByteCheck, Read, Needed, lba10(DPO | BYTCHK)),
    command!(0x34, Prefetch, NoData, Read, Needed, lba10(IMMED)),
    command!(0x35, SynchronizeCache, NoData, Write, Needed, lba10(SYNC_NV | IMMED)),
    command!(0x37, ReadDefectData, Allocation(Bits16(7)), Read, Needed, [0, 0, 0x1f, 0, 0, 0, 0, 0xff, 0xff, 0]),
    command!(0x41, WriteSame, OneBlock, Write, Written, lba10(ANCHOR | UNMAP)),
    command!(0x42, Unmap, Parameters(Bits16(7)), Write, Written, [0, 0x01, 0, 0, 0, 0, GROUP, 0xff, 0xff, 0]),
    command!(0x48 / 0x02, SanitizeErase, NoData, Write, Written, [0, 0xa0, 0, 0, 0, 0, 0, 0, 0, 0]),
    command!(0x48 / 0x1f, SanitizeExit, NoData, Write, Written, [0, 0xa0, 0, 0, 0, 0, 0, 0, 0, 0]),
    command!(0x55, ModeSelect, Parameters(Bits16(7)), Write, Untouched, [0, 0x10, 0, 0, 0, 0, 0, 0xff, 0xff, 0]),
    command!(0x56, Reserve, NoData, Free, Untouched, [0; 10]),
    command!(0x57, Release, NoData, Free, Untouched, [0; 10]),
    command!(0x5a, ModeSense, Allocation(Bits16(7)), Read, Untouched, [0, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0]),
    command!(0x5e / 0x00, ReserveIn, Allocation(Bits16(7)), Query, Untouched, RESERVE_IN),
    command!(0x5e / 0x01, ReserveIn, Allocation(Bits16(7)), Query, Untouched, RESERVE_IN),
    command!(0x5e / 0x02, ReserveIn, Allocation(Bits16(7)), Query, Untouched, RESERVE_IN),
    command!(0x5e / 0x03, ReserveIn, Allocation(Bits16(7)), Query, Untouched, RESERVE_IN),
    command!(0x5f / 0x00, ReserveOut, Parameters(Bits32(5)), Query, Untouched, RESERVE_OUT),
    command!(0x5f / 0x01, ReserveOut, Parameters(Bits32(5)), Query, Untouched, RESERVE_OUT),
    command!(0x5f / 0x02, ReserveOut, Parameters(Bits32(5)), Query, Untouched, RESERVE_OUT),
    command!(0x5f / 0x03, ReserveOut, Parameters(Bits32(5)), Query, Untouched, RESERVE_OUT),
    command!(0x5f / 0x04, ReserveOut, Parameters(Bits32(5)), Query, Untouched, RESERVE_OUT),
    command!(0x5f / 0x05, ReserveOut, Parameters(Bits32(5)), Query, Untouched, RESERVE_OUT),
    command!(0x5f / 0x06, ReserveOut, Parameters(Bits32(5)), Query, Untouched, RESERVE_OUT),
    command!(0x5f / 0x07, ReserveOut, Parameters(Bits32(5)), Query, Untouched, RESERVE_OUT),
    command!(0x83 / 0x00, ExtendedCopy, Parameters(Bits32(10)), Write, Untouched, COPY),
    command!(0x83 / 0x01, ExtendedCopy, Parameters(Bits32(10)), Write, Untouched, COPY),
    command!(0x83 / 0x10, PopulateToken, Parameters(Bits32(10)), Read, Needed, TOKEN),
    command!(0x83 / 0x11, WriteUsingToken, Parameters(Bits32(10)), Write, Written, TOKEN),
    command!(0x84 / 0x00, ReceiveCopy, Allocation(Bits32(10)), Read, Untouched, RESULTS),
    command!(0x84 / 0x03, ReceiveCopy, Allocation(Bits32(10)), Read, Untouched, RESULTS),
    command!(0x84 / 0x04, ReceiveCopy, Allocation(Bits32(10)), Read, Untouched, RESULTS),
    command!(0x84 / 0x05, ReceiveCopy, Allocation(Bits32(10)), Read, Untouched, WIDE_RESULTS),
    command!(0x84 / 0x07, ReceiveCopy, Allocation(Bits32(10)), Read, Untouched, WIDE_RESULTS),
    command!(0x89, CompareAndWrite, TwiceBlocks, Write, Written, [0, DPO_FUA, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0xff, GROUP, 0]),
    command!(0x8b, OrWrite, WriteBlocks, Write, Written, lba16(DPO_FUA)),
    command!(0x8e, WriteAndVerify, WriteBlocks, Write, Written, lba16(DPO | BYTCHK)),
    command!(0x8f, Verify, ByteCheck, Read, Needed, lba16(DPO | BYTCHK)),
    command!(0x90, Prefetch, NoData, Read, Needed, lba16(IMMED)),
    command!(0x91, SynchronizeCache, NoData, Write, Needed, lba16(SYNC_NV | IMMED)),
    command!(0x93, WriteSame, OneBlock, Write, Written, lba16(ANCHOR | UNMAP | NDOB)),
    command!(0x9c, WriteAtomic, WriteBlocks, Write, Written, [0, DPO_FUA, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0xff, 0xff, GROUP, 0]),
    command!(0x9e / 0x10, ReadCapacity, Allocation(Bits32(10)), Query, Needed, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    command!(0x9e / 0x12, GetLbaStatus, Allocation(Bits32(10)), Read, Needed, [0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    command!(0xa0, ReportLuns, Allocation(Bits32(6)), Free, Untouched, [0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    command!(0xa3 / 0x0a, ReportPortGroups, Allocation(Bits32(6)), Query, Untouched, [0, 0xe0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    command!(0xa3 / 0x0c, ReportOpcodes, Allocation(Bits32(6)), Read, Untouched, [0, 0, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    command!(0xa3 / 0x0d, ReportTaskManagement, Allocation(Bits32(6)), Read, Untouched, [0, 0, 0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    command!(0xa8, Read, ReadBlocks, Read, Needed, lba12(DPO_FUA)),
    command!(0xaa, Write, WriteBlocks, Write, Written, lba12(DPO_FUA)),
    command!(0xae, WriteAndVerify, WriteBlocks, Write, Written, lba12(DPO | BYTCHK)),
    command!(0xaf, Verify, ByteCheck, Read, Needed, lba12(DPO | BYTCHK)),
    command!(0xb7, ReadDefectData, Allocation(Bits32(6)), Read, Needed, [0, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]),
];
