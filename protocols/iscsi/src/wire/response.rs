//! PDUs of the target (RFC 7143, 11.4 to 11.19).

use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::header::{HEADER_LENGTH, Pdu, U24};

/// SCSI Response (11.4).
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ScsiResponse {
    pub opcode: u8,
    pub flags: u8,
    pub response: u8,
    pub status: u8,
    pub ahs_words: u8,
    pub data_length: U24,
    pub reserved: [u8; 8],
    pub task_tag: U32,
    pub snack_tag: U32,
    pub stat_sn: U32,
    pub exp_cmd_sn: U32,
    pub max_cmd_sn: U32,
    pub exp_data_sn: U32,
    pub read_residual: U32,
    pub residual: U32,
}

/// SCSI Data-In (11.7).
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DataIn {
    pub opcode: u8,
    pub flags: u8,
    pub reserved: u8,
    pub status: u8,
    pub ahs_words: u8,
    pub data_length: U24,
    pub lun: [u8; 8],
    pub task_tag: U32,
    pub transfer_tag: U32,
    pub stat_sn: U32,
    pub exp_cmd_sn: U32,
    pub max_cmd_sn: U32,
    pub data_sn: U32,
    pub buffer_offset: U32,
    pub residual: U32,
}

impl DataIn {
    /// Flag: the PDU carries the status of the command.
    pub const STATUS: u8 = 0x01;
}

impl ScsiResponse {
    /// Flag: the command would have moved more than the initiator expected. Data-In has it too.
    pub const OVERFLOW: u8 = 0x04;
    /// Flag: the command moved less. Data-In has it too.
    pub const UNDERFLOW: u8 = 0x02;
}

/// Ready To Transfer (11.8).
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct R2t {
    pub opcode: u8,
    pub flags: u8,
    pub reserved: [u8; 2],
    pub ahs_words: u8,
    pub data_length: U24,
    pub lun: [u8; 8],
    pub task_tag: U32,
    pub transfer_tag: U32,
    pub stat_sn: U32,
    pub exp_cmd_sn: U32,
    pub max_cmd_sn: U32,
    pub r2t_sn: U32,
    pub buffer_offset: U32,
    pub desired_length: U32,
}

/// Task Management Function Response (11.6).
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TaskManagementResponse {
    pub opcode: u8,
    pub flags: u8,
    pub response: u8,
    pub reserved: u8,
    pub ahs_words: u8,
    pub data_length: U24,
    pub reserved_2: [u8; 8],
    pub task_tag: U32,
    pub reserved_3: U32,
    pub stat_sn: U32,
    pub exp_cmd_sn: U32,
    pub max_cmd_sn: U32,
    pub reserved_4: [u8; 12],
}

/// NOP-In (11.19).
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NopIn {
    pub opcode: u8,
    pub flags: u8,
    pub reserved: [u8; 2],
    pub ahs_words: u8,
    pub data_length: U24,
    pub lun: [u8; 8],
    pub task_tag: U32,
    pub transfer_tag: U32,
    pub stat_sn: U32,
    pub exp_cmd_sn: U32,
    pub max_cmd_sn: U32,
    pub reserved_2: [u8; 12],
}

/// Text Response (11.11).
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TextResponse {
    pub opcode: u8,
    pub flags: u8,
    pub reserved: [u8; 2],
    pub ahs_words: u8,
    pub data_length: U24,
    pub lun: [u8; 8],
    pub task_tag: U32,
    pub transfer_tag: U32,
    pub stat_sn: U32,
    pub exp_cmd_sn: U32,
    pub max_cmd_sn: U32,
    pub reserved_2: [u8; 12],
}

/// Login Response (11.13).
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LoginResponse {
    pub opcode: u8,
    pub flags: u8,
    pub version_max: u8,
    pub version_active: u8,
    pub ahs_words: u8,
    pub data_length: U24,
    pub isid: [u8; 6],
    pub tsih: U16,
    pub task_tag: U32,
    pub reserved: U32,
    pub stat_sn: U32,
    pub exp_cmd_sn: U32,
    pub max_cmd_sn: U32,
    /// Class and detail.
    pub status: U16,
    pub reserved_2: [u8; 10],
}

/// Logout Response (11.15).
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LogoutResponse {
    pub opcode: u8,
    pub flags: u8,
    pub response: u8,
    pub reserved: u8,
    pub ahs_words: u8,
    pub data_length: U24,
    pub reserved_2: [u8; 8],
    pub task_tag: U32,
    pub reserved_3: U32,
    pub stat_sn: U32,
    pub exp_cmd_sn: U32,
    pub max_cmd_sn: U32,
    pub reserved_4: U32,
    pub time_to_wait: U16,
    pub time_to_retain: U16,
    pub reserved_5: U32,
}

/// Asynchronous Message (11.9).
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AsyncMessage {
    pub opcode: u8,
    pub flags: u8,
    pub reserved: [u8; 2],
    pub ahs_words: u8,
    pub data_length: U24,
    pub lun: [u8; 8],
    /// Always [`NO_TAG`](super::NO_TAG).
    pub task_tag: U32,
    pub reserved_2: U32,
    pub stat_sn: U32,
    pub exp_cmd_sn: U32,
    pub max_cmd_sn: U32,
    pub event: u8,
    pub vendor_code: u8,
    pub parameters: [U16; 3],
    pub reserved_3: U32,
}

/// What an [`AsyncMessage`] tells (11.9.1).
pub mod async_event {
    /// The initiator shall log out; the third parameter says within how many seconds.
    pub const LOGOUT_REQUEST: u8 = 1;
    /// All connections of the session will be dropped; the parameters are zero, time to wait, and time to retain.
    pub const SESSION_DROP: u8 = 3;
}

/// Reject (11.17). The header of what was not taken is its data.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Reject {
    pub opcode: u8,
    pub flags: u8,
    pub reason: u8,
    pub reserved: u8,
    pub ahs_words: u8,
    pub data_length: U24,
    pub reserved_2: [u8; 8],
    /// Always [`NO_TAG`](super::NO_TAG).
    pub task_tag: U32,
    pub reserved_3: U32,
    pub stat_sn: U32,
    pub exp_cmd_sn: U32,
    pub max_cmd_sn: U32,
    pub data_sn: U32,
    pub reserved_4: [u8; 8],
}

/// Why a PDU is not taken (11.17.1).
pub mod reject_reason {
    /// The digest of the data is wrong.
    pub const DATA_DIGEST: u8 = 0x02;
    /// Nothing is sent again.
    pub const SNACK: u8 = 0x03;
    /// The PDU does not fit the state of the session.
    pub const PROTOCOL_ERROR: u8 = 0x04;
    /// The kind of PDU is not known.
    pub const NOT_SUPPORTED: u8 = 0x05;
    /// Too many immediate requests at once.
    pub const TOO_MANY_IMMEDIATE: u8 = 0x06;
    /// The task tag is in use.
    pub const TASK_IN_PROGRESS: u8 = 0x07;
    /// A field is not what the standard says.
    pub const INVALID_FIELD: u8 = 0x09;
}

macro_rules! pdus {
    ($($name:ident),*) => {
        $(
            const _: () = assert!(size_of::<$name>() == HEADER_LENGTH);
            impl Pdu for $name {}
        )*
    };
}
pdus!(
    ScsiResponse,
    DataIn,
    R2t,
    TaskManagementResponse,
    NopIn,
    TextResponse,
    LoginResponse,
    LogoutResponse,
    AsyncMessage,
    Reject
);
