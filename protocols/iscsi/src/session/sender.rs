//! Makes the PDUs of the target and queues them.

use bytes::Bytes;
use export::{Output, Segments};
use scsi::{Response, Status};
use zerocopy::IntoBytes;
use zerocopy::big_endian::U32;

use super::parameters::Parameters;
use super::window::Window;
use crate::wire::{DataIn, Header, Pdu, R2t, Reject, ScsiResponse, U24, digest, opcode, padding};
use crate::wire::{Digesting, Digests, NO_TAG};

/// The output of a session, with the numbers that every PDU of the target carries.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) output: Output,
    pub(super) window: Window,
    digests: Digests,
    stat_sn: u32,
    segment_bytes: usize,
    burst_bytes: usize,
}

/// What the initiator expects of a command, to tell it the difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expectation {
    pub(super) task_tag: u32,
    pub(super) lun: [u8; 8],
    /// Bytes that it would take.
    pub(super) read_bytes: u32,
    /// Bytes that it had to send.
    pub(super) write_bytes: u32,
    /// Bytes of Data-Out that the command moves, if it ends well.
    pub(super) wanted_bytes: u32,
    /// PDUs that were sent for it already.
    pub(super) r2ts: u32,
}

impl Sender {
    pub(super) fn new(parameters: &Parameters, window: Window, stat_sn: u32) -> Self {
        Self {
            output: Output::default(),
            window,
            digests: parameters.digests,
            stat_sn,
            segment_bytes: parameters.peer_segment_bytes as usize,
            burst_bytes: parameters.max_burst_bytes as usize,
        }
    }

    /// The longest data segment that the peer takes.
    pub(super) fn segment_bytes(&self) -> usize {
        self.segment_bytes
    }

    /// The initiator has declared another longest data segment.
    pub(super) fn set_segment_bytes(&mut self, length: u32) {
        self.segment_bytes = length as usize;
    }

    /// `StatSN` of the next status, which it then has.
    pub(super) fn next_stat_sn(&mut self) -> U32 {
        let number = self.stat_sn;
        self.stat_sn = number.wrapping_add(1);
        U32::new(number)
    }

    /// `StatSN` of the next status, for PDUs that are none.
    pub(super) fn stat_sn(&self) -> U32 {
        U32::new(self.stat_sn)
    }

    pub(super) fn exp_cmd_sn(&self) -> U32 {
        U32::new(self.window.expected())
    }

    pub(super) fn max_cmd_sn(&self) -> U32 {
        U32::new(self.window.last())
    }

    /// Queues a PDU with little or no data.
    pub(super) fn push(&mut self, pdu: &impl Pdu, data: &[u8]) {
        self.head(pdu);
        if !data.is_empty() {
            let digests = self.digests;
            self.output.header(|out| {
                let start = out.len();
                out.extend_from_slice(data);
                out.resize(out.len() + padding(data.len()), 0);
                if digests.data {
                    let sum = digest([out.get(start..).unwrap_or_default()]);
                    out.extend_from_slice(&sum);
                }
            });
        }
    }

    /// Queues R2T.
    pub(super) fn r2t(&mut self, lun: [u8; 8], task_tag: u32, burst: R2tBurst) {
        let pdu = R2t {
            opcode: opcode::R2T,
            flags: Header::FINAL,
            lun,
            task_tag: U32::new(task_tag),
            transfer_tag: U32::new(burst.transfer_tag),
            stat_sn: self.stat_sn(),
            exp_cmd_sn: self.exp_cmd_sn(),
            max_cmd_sn: self.max_cmd_sn(),
            r2t_sn: U32::new(burst.r2t_sn),
            buffer_offset: U32::new(burst.offset),
            desired_length: U32::new(burst.length),
            ..R2t::default()
        };
        self.push(&pdu, &[]);
    }

    /// Queues Reject with the header of what is not taken.
    pub(super) fn reject(&mut self, header: &Header, reason: u8) {
        let pdu = Reject {
            opcode: opcode::REJECT,
            flags: Header::FINAL,
            reason,
            data_length: U24::new(header.as_bytes().len()),
            task_tag: U32::new(NO_TAG),
            stat_sn: self.next_stat_sn(),
            exp_cmd_sn: self.exp_cmd_sn(),
            max_cmd_sn: self.max_cmd_sn(),
            ..Reject::default()
        };
        self.push(&pdu, header.as_bytes());
    }

    /// Queues the data and the status of a command: in one PDU if it went well and the data fits.
    pub(super) fn respond(&mut self, expected: &Expectation, response: Response) {
        let Response {
            status,
            sense,
            data_in,
        } = response;
        let (flags, residual) = residual(expected, status, data_in.len());
        let length = data_in.len().min(expected.read_bytes as usize);
        let is_collapsed = length > 0 && status == Status::Good && sense.is_none();
        let mut pdus = 0;
        if length > 0 {
            let ending = is_collapsed.then_some((flags, residual));
            pdus = self.data_in(expected, data_in, length, ending);
        }
        if is_collapsed {
            return;
        }
        let mut data = Vec::new();
        if let Some(sense) = sense {
            let sense = sense.encode();
            let length = u16::try_from(sense.len()).expect("sense data is at most 252 bytes");
            data.extend_from_slice(&length.to_be_bytes());
            data.extend_from_slice(&sense);
        }
        let pdu = ScsiResponse {
            opcode: opcode::SCSI_RESPONSE,
            flags: Header::FINAL | flags,
            status: status as u8,
            data_length: U24::new(data.len()),
            task_tag: U32::new(expected.task_tag),
            stat_sn: self.next_stat_sn(),
            exp_cmd_sn: self.exp_cmd_sn(),
            max_cmd_sn: self.max_cmd_sn(),
            exp_data_sn: U32::new(pdus + expected.r2ts),
            residual: U32::new(residual),
            ..ScsiResponse::default()
        };
        self.push(&pdu, &data);
    }

    /// Queues the first `length` bytes of `data` as Data-In, the last with the status if `ending` is given. Says how
    /// many PDUs these are.
    fn data_in(
        &mut self,
        expected: &Expectation,
        data: Segments,
        length: usize,
        ending: Option<(u8, u32)>,
    ) -> u32 {
        let mut pieces = data.into_pieces().into_iter();
        let mut piece = Bytes::new();
        let (mut offset, mut data_sn) = (0, 0);
        while offset < length {
            let burst_end = (offset / self.burst_bytes + 1) * self.burst_bytes;
            let end = length.min(burst_end).min(offset + self.segment_bytes);
            let mut pdu = DataIn {
                opcode: opcode::DATA_IN,
                data_length: U24::new(end - offset),
                task_tag: U32::new(expected.task_tag),
                transfer_tag: U32::new(NO_TAG),
                exp_cmd_sn: self.exp_cmd_sn(),
                max_cmd_sn: self.max_cmd_sn(),
                data_sn: U32::new(data_sn),
                buffer_offset: U32::new(u32::try_from(offset).unwrap_or(u32::MAX)),
                ..DataIn::default()
            };
            if end == length || end == burst_end {
                pdu.flags = Header::FINAL;
            }
            if let Some((flags, residual)) = ending.filter(|_| end == length) {
                pdu.flags |= DataIn::STATUS | flags;
                pdu.stat_sn = self.next_stat_sn();
                pdu.residual = U32::new(residual);
            }
            self.head(&pdu);
            self.segment(end - offset, &mut piece, &mut pieces);
            offset = end;
            data_sn += 1;
        }
        data_sn
    }

    /// Queues the next `length` bytes of `piece` and `pieces` as a data segment.
    fn segment(
        &mut self,
        length: usize,
        piece: &mut Bytes,
        pieces: &mut impl Iterator<Item = Bytes>,
    ) {
        let mut missing = length;
        let mut sum = self.digests.data.then(Digesting::default);
        while missing > 0 {
            if piece.is_empty() {
                match pieces.next() {
                    Some(next) => *piece = next,
                    None => break,
                }
            }
            let part = piece.split_to(missing.min(piece.len()));
            missing -= part.len();
            if let Some(sum) = &mut sum {
                sum.add(&part);
            }
            self.output.data(part);
        }
        let pad = [0; 3];
        let pad = pad.get(..padding(length)).unwrap_or_default();
        if let Some(sum) = &mut sum {
            sum.add(pad);
        }
        self.output.header(|out| {
            out.extend_from_slice(pad);
            out.extend(sum.into_iter().flat_map(Digesting::finish));
        });
    }

    fn head(&mut self, pdu: &impl Pdu) {
        let digests = self.digests;
        self.output.header(|out| {
            out.extend_from_slice(pdu.as_bytes());
            if digests.header {
                out.extend_from_slice(&digest([pdu.as_bytes()]));
            }
        });
    }
}

/// What an R2T asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct R2tBurst {
    pub(super) transfer_tag: u32,
    pub(super) r2t_sn: u32,
    pub(super) offset: u32,
    pub(super) length: u32,
}

/// Appends a PDU without digests, as logins have it.
pub(super) fn push_pdu(pdu: &impl Pdu, data: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(pdu.as_bytes());
    out.extend_from_slice(data);
    out.resize(out.len() + padding(data.len()), 0);
}

/// How much more or less than expected is moved (RFC 7143, 11.4.5).
fn residual(expected: &Expectation, status: Status, read_bytes: usize) -> (u8, u32) {
    let (moved, wished) = if expected.write_bytes > 0 || expected.wanted_bytes > 0 {
        let moved = match status {
            Status::Good | Status::ConditionMet => expected.wanted_bytes,
            // Too little was expected, however the command ended.
            _ if expected.wanted_bytes > expected.write_bytes => expected.wanted_bytes,
            _ => 0,
        };
        (moved, expected.write_bytes)
    } else {
        let moved = u32::try_from(read_bytes).unwrap_or(u32::MAX);
        (moved, expected.read_bytes)
    };
    match moved.cmp(&wished) {
        std::cmp::Ordering::Less => (ScsiResponse::UNDERFLOW, wished - moved),
        std::cmp::Ordering::Equal => (0, 0),
        std::cmp::Ordering::Greater => (ScsiResponse::OVERFLOW, moved - wished),
    }
}
