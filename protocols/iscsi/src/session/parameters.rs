//! What the two sides have agreed on (RFC 7143, 13).

use crate::wire::Digests;

/// The operational parameters of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// Which digests follow.
    pub digests: Digests,
    /// Whether writes wait for R2T, but for immediate data.
    pub initial_r2t: bool,
    /// Whether commands bring data.
    pub immediate_data: bool,
    /// Longest data segment that the initiator takes.
    pub peer_segment_bytes: u32,
    /// Longest data segment that the target takes.
    pub own_segment_bytes: u32,
    /// Most data of one R2T or one sequence of Data-In.
    pub max_burst_bytes: u32,
    /// Most data that comes without R2T.
    pub first_burst_bytes: u32,
    /// Most R2Ts of one command at once.
    pub max_outstanding_r2t: u16,
    /// Seconds before a connection comes back.
    pub time_to_wait: u16,
}

/// What the target can do, for both sides to agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Longest data segment that is taken.
    pub segment_bytes: u32,
    /// Most data of one sequence.
    pub max_burst_bytes: u32,
    /// Most data without R2T; at least 64 KiB, the default of initiators that say nothing.
    pub first_burst_bytes: u32,
    /// Most R2Ts of one command at once.
    pub max_outstanding_r2t: u16,
}

impl Default for Parameters {
    /// What holds until something else is agreed on.
    fn default() -> Self {
        Self {
            digests: Digests::default(),
            initial_r2t: true,
            immediate_data: true,
            peer_segment_bytes: SEGMENT_DEFAULT,
            own_segment_bytes: SEGMENT_DEFAULT,
            max_burst_bytes: 256 * 1024,
            first_burst_bytes: 64 * 1024,
            max_outstanding_r2t: 1,
            time_to_wait: 2,
        }
    }
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            segment_bytes: 1024 * 1024,
            max_burst_bytes: 4 * 1024 * 1024,
            first_burst_bytes: 64 * 1024,
            max_outstanding_r2t: 8,
        }
    }
}

/// `MaxRecvDataSegmentLength` of both sides until they declare another, which is that of all login PDUs.
pub(crate) const SEGMENT_DEFAULT: u32 = 8192;
