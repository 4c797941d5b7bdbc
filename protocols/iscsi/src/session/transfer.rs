//! The data that a command brings: immediate, unsolicited, and asked for by R2T (RFC 7143, 4.2.5).
//!
//! Sequences come in order, and so do the PDUs of each (DataSequenceInOrder and DataPDUInOrder are Yes). Every sequence
//! has one buffer, into which its bytes are read from the socket.

use std::collections::VecDeque;

use bytes::Bytes;
use export::{PayloadBuffer, PayloadBuffers};

use super::sender::R2tBurst;
use crate::wire::{DataOut, NO_TAG};

/// What a command has got and still waits for.
#[derive(Debug, Default)]
pub(super) struct Transfer {
    pieces: Vec<Bytes>,
    /// Bytes of the finished pieces.
    taken: u32,
    /// End of what was asked for.
    asked: u32,
    /// Bytes that the command uses.
    wanted: u32,
    bursts: VecDeque<Burst>,
    r2t_sn: u32,
}

/// One sequence of Data-Out.
#[derive(Debug)]
struct Burst {
    transfer_tag: u32,
    start: u32,
    length: u32,
    data_sn: u32,
    /// None before the first of its data, and while that is received.
    buffer: Option<PayloadBuffer>,
    filled: u32,
}

/// Data that does not follow the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfOrder;

impl Transfer {
    /// Waits for `wanted` bytes, of which `immediate` has come already.
    pub(super) fn new(wanted: u32, immediate: Bytes) -> Self {
        let taken = u32::try_from(immediate.len()).unwrap_or(u32::MAX);
        Self {
            pieces: if immediate.is_empty() {
                Vec::new()
            } else {
                vec![immediate]
            },
            taken,
            asked: taken,
            wanted,
            bursts: VecDeque::new(),
            r2t_sn: 0,
        }
    }

    /// Expects a sequence that nobody asked for, up to `end`.
    pub(super) fn expect_unsolicited(&mut self, end: u32) {
        self.push(NO_TAG, end.saturating_sub(self.asked));
    }

    /// Asks for the next sequence, of at most `longest` bytes.
    pub(super) fn ask(&mut self, transfer_tag: u32, longest: u32) -> R2tBurst {
        let offset = self.asked;
        let length = longest.min(self.missing());
        self.push(transfer_tag, length);
        let burst = R2tBurst {
            transfer_tag,
            r2t_sn: self.r2t_sn,
            offset,
            length,
        };
        self.r2t_sn += 1;
        burst
    }

    /// Bytes that nobody has asked for yet.
    pub(super) fn missing(&self) -> u32 {
        self.wanted.saturating_sub(self.asked)
    }

    /// Whether R2T may be sent: what nobody asks for has come.
    pub(super) fn may_ask(&self, outstanding_max: u16) -> bool {
        let unsolicited = |burst: &Burst| burst.transfer_tag == NO_TAG;
        self.missing() > 0
            && self.bursts.len() < usize::from(outstanding_max)
            && !self.bursts.front().is_some_and(unsolicited)
    }

    /// R2Ts that were sent.
    pub(super) fn r2ts(&self) -> u32 {
        self.r2t_sn
    }

    /// Whether everything is there.
    pub(super) fn is_complete(&self) -> bool {
        self.bursts.is_empty() && self.missing() == 0
    }

    /// Whether a sequence is under way.
    pub(super) fn is_receiving(&self) -> bool {
        !self.bursts.is_empty()
    }

    /// Bytes of memory that are held or promised.
    pub(super) fn held(&self) -> u64 {
        let promised: u64 = self
            .bursts
            .iter()
            .map(|burst| u64::from(burst.length))
            .sum();
        u64::from(self.taken) + promised
    }

    /// Whether a Data-Out is the next; gives the buffer that its data belongs to.
    pub(super) fn place(
        &mut self,
        header: &DataOut,
        buffers: &PayloadBuffers,
    ) -> Result<PayloadBuffer, OutOfOrder> {
        let length = u32::try_from(header.data_length.get()).map_err(|_| OutOfOrder)?;
        let burst = self.bursts.front_mut().ok_or(OutOfOrder)?;
        let is_next = header.transfer_tag.get() == burst.transfer_tag
            && header.data_sn.get() == burst.data_sn
            && header.buffer_offset.get() == burst.start.saturating_add(burst.filled)
            && length <= burst.length - burst.filled;
        if !is_next {
            return Err(OutOfOrder);
        }
        let taken = burst.buffer.take();
        Ok(taken.unwrap_or_else(|| buffers.take(burst.length as usize)))
    }

    /// Takes the buffer back, with the data. What is asked for has to come whole; what is not may be less.
    pub(super) fn put(&mut self, buffer: PayloadBuffer, is_final: bool) -> Result<(), OutOfOrder> {
        let burst = self.bursts.front_mut().ok_or(OutOfOrder)?;
        burst.filled = u32::try_from(buffer.as_ref().len()).map_err(|_| OutOfOrder)?;
        burst.data_sn = burst.data_sn.wrapping_add(1);
        let is_full = burst.filled == burst.length;
        let is_solicited = burst.transfer_tag != NO_TAG;
        if !is_final {
            // A sequence that is full ends; only then.
            burst.buffer = Some(buffer);
            return if is_full { Err(OutOfOrder) } else { Ok(()) };
        }
        if is_solicited && !is_full {
            return Err(OutOfOrder);
        }
        let burst = self.bursts.pop_front().ok_or(OutOfOrder)?;
        self.taken += burst.filled;
        if !is_solicited {
            self.asked = self.taken;
        }
        if burst.filled > 0 {
            self.pieces.push(buffer.freeze());
        }
        Ok(())
    }

    /// The data, without what is beyond the bytes that the command uses.
    pub(super) fn take(&mut self) -> Vec<Bytes> {
        let mut pieces = std::mem::take(&mut self.pieces);
        let mut room = self.wanted as usize;
        pieces.retain_mut(|piece| {
            piece.truncate(room);
            room -= piece.len();
            !piece.is_empty()
        });
        pieces
    }

    fn push(&mut self, transfer_tag: u32, length: u32) {
        self.bursts.push_back(Burst {
            transfer_tag,
            start: self.asked,
            length,
            data_sn: 0,
            buffer: None,
            filled: 0,
        });
        self.asked = self.asked.saturating_add(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::wire::{Pdu as _, U24, opcode};
    use zerocopy::big_endian::U32;

    fn data_out(transfer_tag: u32, data_sn: u32, offset: u32, length: usize) -> DataOut {
        let mut pdu: DataOut = crate::wire::NopOut {
            opcode: opcode::DATA_OUT,
            flags: 0,
            reserved: [0; 2],
            ahs_words: 0,
            data_length: U24::new(length),
            lun: [0; 8],
            task_tag: U32::new(1),
            transfer_tag: U32::new(transfer_tag),
            cmd_sn: U32::new(0),
            exp_stat_sn: U32::new(0),
            reserved_2: [0; 16],
        }
        .header()
        .view();
        pdu.data_sn = U32::new(data_sn);
        pdu.buffer_offset = U32::new(offset);
        pdu
    }

    /// Gives `length` bytes at `offset`, each the number of its PDU.
    fn give(
        transfer: &mut Transfer,
        (transfer_tag, data_sn, offset, length): (u32, u32, u32, usize),
        is_final: bool,
    ) -> Result<(), OutOfOrder> {
        let mut buffer = {
            let pdu = data_out(transfer_tag, data_sn, offset, length);
            transfer.place(&pdu, &PayloadBuffers::new(0))?
        };
        buffer.put(&vec![u8::try_from(data_sn).unwrap(); length]);
        transfer.put(buffer, is_final)
    }

    #[test]
    fn all_three_ways_of_data_come_together() {
        let mut transfer = Transfer::new(100, Bytes::from(vec![9; 10]));
        transfer.expect_unsolicited(40);
        assert!(!transfer.may_ask(2), "first what nobody asked for");
        give(&mut transfer, (NO_TAG, 0, 10, 10), false).unwrap();
        give(&mut transfer, (NO_TAG, 1, 20, 5), true).unwrap();
        assert!(transfer.may_ask(2));
        let first = transfer.ask(7, 50);
        assert_eq!((first.offset, first.length, first.r2t_sn), (25, 50, 0));
        let second = transfer.ask(8, 50);
        assert_eq!((second.offset, second.length, second.r2t_sn), (75, 25, 1));
        assert_eq!(transfer.missing(), 0);
        give(&mut transfer, (7, 0, 25, 50), true).unwrap();
        assert!(!transfer.is_complete());
        give(&mut transfer, (8, 0, 75, 25), true).unwrap();
        assert!(transfer.is_complete());
        let lengths: Vec<usize> = transfer.take().iter().map(Bytes::len).collect();
        assert_eq!(lengths, [10, 15, 50, 25]);
    }

    #[test]
    fn data_beyond_what_the_command_uses_is_dropped() {
        let mut transfer = Transfer::new(12, Bytes::from(vec![1; 10]));
        transfer.expect_unsolicited(30);
        give(&mut transfer, (NO_TAG, 0, 10, 20), true).unwrap();
        assert!(transfer.is_complete());
        let lengths: Vec<usize> = transfer.take().iter().map(Bytes::len).collect();
        assert_eq!(lengths, [10, 2]);
    }

    #[test]
    fn data_out_of_order_is_refused() {
        let check = |pdu, is_final| {
            let mut transfer = Transfer::new(100, Bytes::new());
            transfer.ask(7, 50);
            transfer.ask(8, 50);
            assert_eq!(
                give(&mut transfer, pdu, is_final),
                Err(OutOfOrder),
                "{pdu:?}"
            );
        };
        check((8, 0, 50, 50), true);
        check((9, 0, 0, 50), true);
        check((7, 1, 0, 50), true);
        check((7, 0, 1, 49), true);
        check((7, 0, 0, 51), true);
        check((7, 0, 0, 50), false);
        check((7, 0, 0, 49), true);
        check((NO_TAG, 0, 0, 50), true);
    }
}
