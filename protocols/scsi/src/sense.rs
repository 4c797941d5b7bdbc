//! Sense data: why a command was not done (SPC-4, 4.5).

use smallvec::SmallVec;

use crate::wire;

/// What happened, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sense {
    /// The class of the fault.
    pub key: SenseKey,
    /// ADDITIONAL SENSE CODE and QUALIFIER.
    pub code: (u8, u8),
    /// INFORMATION: an LBA, or an offset, as the code says.
    pub information: Option<u64>,
    /// SENSE KEY SPECIFIC: a field pointer.
    pub specific: Option<[u8; 3]>,
    /// How it is written.
    pub format: SenseFormat,
}

/// The two ways to write sense data; the control mode page chooses by D_SENSE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SenseFormat {
    /// 18 bytes; numbers beyond 32 bits do not fit.
    #[default]
    Fixed,
    /// A header and descriptors.
    Descriptor,
}

/// SENSE KEY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SenseKey {
    /// Nothing to say.
    NoSense = 0x0,
    /// Done, with help.
    RecoveredError = 0x1,
    /// The unit cannot be used now.
    NotReady = 0x2,
    /// Stored bytes cannot be read or written.
    MediumError = 0x3,
    /// A fault that is not the medium's.
    HardwareError = 0x4,
    /// The command or its parameters are wrong.
    IllegalRequest = 0x5,
    /// Something changed that the initiator must know of.
    UnitAttention = 0x6,
    /// The medium must not be written.
    DataProtect = 0x7,
    /// A copy failed between two devices.
    CopyAborted = 0xa,
    /// The device gave the command up.
    AbortedCommand = 0xb,
    /// Bytes differ from those compared with.
    Miscompare = 0xe,
}

impl Sense {
    /// Sense data without a place.
    pub const fn new(key: SenseKey, code: (u8, u8)) -> Self {
        Self {
            key,
            code,
            information: None,
            specific: None,
            format: SenseFormat::Fixed,
        }
    }

    /// ILLEGAL REQUEST with `code`.
    pub(crate) const fn illegal(code: (u8, u8)) -> Self {
        Self::new(SenseKey::IllegalRequest, code)
    }

    /// INVALID FIELD IN CDB, at `byte`, and at `bit` of it where one bit is to blame.
    pub(crate) fn invalid_field_in_cdb(byte: u16, bit: Option<u8>) -> Self {
        Self {
            specific: Some(field_pointer(0xc0, byte, bit)),
            ..Self::illegal(code::INVALID_FIELD_IN_CDB)
        }
    }

    /// INVALID FIELD IN PARAMETER LIST, at `byte`.
    pub(crate) fn invalid_field_in_parameters(byte: u16, bit: Option<u8>) -> Self {
        Self {
            specific: Some(field_pointer(0x80, byte, bit)),
            ..Self::illegal(code::INVALID_FIELD_IN_PARAMETER_LIST)
        }
    }

    /// The same with INFORMATION.
    #[must_use]
    pub(crate) const fn at(mut self, information: u64) -> Self {
        self.information = Some(information);
        self
    }

    /// Writes the sense data in its format.
    pub fn encode(&self) -> SmallVec<[u8; 32]> {
        match self.format {
            SenseFormat::Fixed => self.encode_fixed(),
            SenseFormat::Descriptor => self.encode_descriptors(),
        }
    }

    fn encode_fixed(&self) -> SmallVec<[u8; 32]> {
        let mut bytes = [0; 18];
        let information = self
            .information
            .and_then(|information| u32::try_from(information).ok());
        let valid = if information.is_some() { 0x80 } else { 0 };
        wire::put(&mut bytes, 0, &[valid | 0x70, 0, self.key as u8]);
        wire::put(&mut bytes, 3, &information.unwrap_or(0).to_be_bytes());
        wire::put(&mut bytes, 7, &[10]);
        wire::put(&mut bytes, 12, &[self.code.0, self.code.1]);
        wire::put(&mut bytes, 15, &self.specific.unwrap_or_default());
        SmallVec::from_slice(&bytes)
    }

    fn encode_descriptors(&self) -> SmallVec<[u8; 32]> {
        let mut bytes = SmallVec::from_slice(&[0x72, self.key as u8, self.code.0, self.code.1]);
        bytes.extend_from_slice(&[0; 4]);
        if let Some(information) = self.information {
            bytes.extend_from_slice(&[0, 0x0a, 0x80, 0]);
            bytes.extend_from_slice(&information.to_be_bytes());
        }
        if let Some([one, two, three]) = self.specific {
            bytes.extend_from_slice(&[2, 6, 0, 0, one, two, three, 0]);
        }
        let additional = wire::to_u8(bytes.len().saturating_sub(8));
        if let Some(length) = bytes.get_mut(7) {
            *length = additional;
        }
        bytes
    }
}

/// SENSE KEY SPECIFIC for a field that is wrong (SPC-4, 4.5.2.4.2); `flags` has SKSV and C/D.
fn field_pointer(flags: u8, byte: u16, bit: Option<u8>) -> [u8; 3] {
    let [high, low] = byte.to_be_bytes();
    let bit = bit.map_or(0, |bit| 0x08 | (bit & 7));
    [flags | bit, high, low]
}

/// Additional sense codes and qualifiers (SPC-4, annex D).
pub(crate) mod code {
    pub(crate) const NO_ADDITIONAL_SENSE: (u8, u8) = (0x00, 0x00);
    pub(crate) const SANITIZE_IN_PROGRESS: (u8, u8) = (0x04, 0x1b);
    pub(crate) const INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT: (u8, u8) = (0x0e, 0x03);
    pub(crate) const UNRECOVERED_READ_ERROR: (u8, u8) = (0x11, 0x00);
    pub(crate) const PARAMETER_LIST_LENGTH_ERROR: (u8, u8) = (0x1a, 0x00);
    pub(crate) const MISCOMPARE_DURING_VERIFY: (u8, u8) = (0x1d, 0x00);
    pub(crate) const INVALID_COMMAND_OPERATION_CODE: (u8, u8) = (0x20, 0x00);
    pub(crate) const LBA_OUT_OF_RANGE: (u8, u8) = (0x21, 0x00);
    pub(crate) const INVALID_FIELD_IN_CDB: (u8, u8) = (0x24, 0x00);
    pub(crate) const LOGICAL_UNIT_NOT_SUPPORTED: (u8, u8) = (0x25, 0x00);
    pub(crate) const INVALID_FIELD_IN_PARAMETER_LIST: (u8, u8) = (0x26, 0x00);
    pub(crate) const WRITE_PROTECTED: (u8, u8) = (0x27, 0x00);
    pub(crate) const SPACE_ALLOCATION_FAILED_WRITE_PROTECT: (u8, u8) = (0x27, 0x07);
    pub(crate) const POWER_ON_OR_RESET: (u8, u8) = (0x29, 0x00);
    pub(crate) const BUS_DEVICE_RESET: (u8, u8) = (0x29, 0x03);
    pub(crate) const MEDIUM_MAY_HAVE_CHANGED: (u8, u8) = (0x28, 0x00);
    pub(crate) const MEDIUM_NOT_PRESENT: (u8, u8) = (0x3a, 0x00);
    pub(crate) const MEDIUM_REMOVAL_PREVENTED: (u8, u8) = (0x53, 0x02);
    pub(crate) const INVALID_RELEASE_OF_PERSISTENT_RESERVATION: (u8, u8) = (0x26, 0x04);
    pub(crate) const RESERVATIONS_PREEMPTED: (u8, u8) = (0x2a, 0x03);
    pub(crate) const RESERVATIONS_RELEASED: (u8, u8) = (0x2a, 0x04);
    pub(crate) const REGISTRATIONS_PREEMPTED: (u8, u8) = (0x2a, 0x05);
    pub(crate) const INSUFFICIENT_REGISTRATION_RESOURCES: (u8, u8) = (0x55, 0x04);
    pub(crate) const THIRD_PARTY_DEVICE_FAILURE: (u8, u8) = (0x0d, 0x01);
    pub(crate) const COPY_TARGET_DEVICE_NOT_REACHABLE: (u8, u8) = (0x0d, 0x02);
    pub(crate) const UNSUPPORTED_TOKEN_TYPE: (u8, u8) = (0x23, 0x01);
    pub(crate) const TOKEN_UNKNOWN: (u8, u8) = (0x23, 0x04);
    pub(crate) const TOKEN_REVOKED: (u8, u8) = (0x23, 0x06);
    pub(crate) const TOO_MANY_TARGET_DESCRIPTORS: (u8, u8) = (0x26, 0x06);
    pub(crate) const UNSUPPORTED_TARGET_DESCRIPTOR_TYPE_CODE: (u8, u8) = (0x26, 0x07);
    pub(crate) const TOO_MANY_SEGMENT_DESCRIPTORS: (u8, u8) = (0x26, 0x08);
    pub(crate) const UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE_CODE: (u8, u8) = (0x26, 0x09);
    pub(crate) const UNEXPECTED_INEXACT_SEGMENT: (u8, u8) = (0x26, 0x0a);
    pub(crate) const INLINE_DATA_LENGTH_EXCEEDED: (u8, u8) = (0x26, 0x0b);
    pub(crate) const MODE_PARAMETERS_CHANGED: (u8, u8) = (0x2a, 0x01);
    pub(crate) const COMMANDS_CLEARED_BY_ANOTHER_INITIATOR: (u8, u8) = (0x2f, 0x00);
    pub(crate) const THIN_PROVISIONING_SOFT_THRESHOLD_REACHED: (u8, u8) = (0x38, 0x07);
    pub(crate) const SAVING_PARAMETERS_NOT_SUPPORTED: (u8, u8) = (0x39, 0x00);
    pub(crate) const REPORTED_LUNS_DATA_HAS_CHANGED: (u8, u8) = (0x3f, 0x0e);
    pub(crate) const INTERNAL_TARGET_FAILURE: (u8, u8) = (0x44, 0x00);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_pointer_in_both_formats() {
        let mut sense = Sense::invalid_field_in_cdb(2, Some(5));
        let fixed = sense.encode();
        assert_eq!(
            fixed[..],
            [
                0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xcd, 0, 2
            ]
        );
        sense.format = SenseFormat::Descriptor;
        let descriptors = sense.encode();
        assert_eq!(
            descriptors[..],
            [0x72, 5, 0x24, 0, 0, 0, 0, 8, 2, 6, 0, 0, 0xcd, 0, 2, 0]
        );
    }

    #[test]
    fn information_beyond_32_bits_needs_the_descriptor() {
        let mut sense = Sense::new(SenseKey::MediumError, code::UNRECOVERED_READ_ERROR).at(1 << 33);
        assert_eq!(sense.encode()[0], 0x70);
        sense.format = SenseFormat::Descriptor;
        assert_eq!(sense.encode()[12..20], (1_u64 << 33).to_be_bytes());
        let small = Sense::new(SenseKey::MediumError, code::UNRECOVERED_READ_ERROR).at(7);
        assert_eq!(small.encode()[..7], [0xf0, 0, 3, 0, 0, 0, 7]);
    }
}
