//! Replies on their way out: headers of ours and bytes of the export, gathered for vectored writes.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

/// A queue of bytes. Payloads are referred to, not copied.
#[derive(Debug, Default)]
pub struct Output {
    /// Header bytes; the first is at position `base`.
    headers: Vec<u8>,
    base: usize,
    parts: VecDeque<Part>,
    length_bytes: usize,
    /// So many parts at the front are detached.
    detached: usize,
}

impl Output {
    /// Lets `encode` append header bytes.
    pub fn header(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let start = self.base + self.headers.len();
        encode(&mut self.headers);
        let end = self.base + self.headers.len();
        self.length_bytes += end - start;
        match self.parts.back_mut() {
            Some(Part::Header { end: last, .. }) => *last = end,
            _ if start < end => self.parts.push_back(Part::Header { start, end }),
            _ => {}
        }
    }

    /// Appends a payload.
    pub fn data(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.length_bytes += bytes.len();
            self.parts.push_back(Part::Data(bytes));
        }
    }

    /// Copies small payloads, so that they keep no larger buffer of the export alive: for when the peer does not take
    /// them at once. What is not small is at least half of a buffer of 64 KiB.
    pub fn detach(&mut self) {
        for part in self.parts.iter_mut().skip(self.detached) {
            if let Part::Data(bytes) = part
                && bytes.len() < SMALL_MAX
            {
                *bytes = Bytes::copy_from_slice(bytes);
            }
        }
        self.detached = self.parts.len();
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.length_bytes
    }

    /// Pieces that wait; each may keep a larger buffer of the export alive.
    pub fn pieces(&self) -> usize {
        self.parts.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.length_bytes == 0
    }

    /// Points `slices` at the first bytes that wait, and says how many slices are used.
    pub fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut used = 0;
        for (slice, part) in slices.iter_mut().zip(&self.parts) {
            *slice = IoSlice::new(self.bytes(part));
            used += 1;
        }
        used
    }

    /// Forgets the first `count` bytes: they are sent.
    pub fn consume(&mut self, mut count: usize) {
        self.length_bytes -= count;
        while count > 0 {
            let Some(front) = self.parts.front_mut() else {
                break;
            };
            let step = count.min(front.len());
            if step == front.len() {
                self.parts.pop_front();
                self.detached = self.detached.saturating_sub(1);
            } else {
                front.advance(step);
            }
            count -= step;
        }
        self.drop_sent_headers();
    }

    fn bytes<'a>(&'a self, part: &'a Part) -> &'a [u8] {
        match part {
            Part::Header { start, end } => self
                .headers
                .get(start - self.base..end - self.base)
                .expect("a header stays until it is sent"),
            Part::Data(bytes) => bytes,
        }
    }

    /// Frees header bytes that are sent: all at once when nothing waits, else when they are many.
    fn drop_sent_headers(&mut self) {
        let end = self.base + self.headers.len();
        let first = self.parts.iter().find_map(|part| match part {
            Part::Header { start, .. } => Some(*start),
            Part::Data(_) => None,
        });
        let sent = first.unwrap_or(end) - self.base;
        if sent == self.headers.len() || sent >= SENT_HEADERS_MAX {
            self.headers.drain(..sent);
            self.base += sent;
        }
    }
}

#[derive(Debug)]
enum Part {
    Header { start: usize, end: usize },
    Data(Bytes),
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Self::Header { start, end } => end - start,
            Self::Data(bytes) => bytes.len(),
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Header { start, .. } => *start += count,
            Self::Data(bytes) => bytes::Buf::advance(bytes, count),
        }
    }
}

/// Header bytes that may stay behind after they are sent, so that they are not moved for every write.
const SENT_HEADERS_MAX: usize = 16 * 1024;
/// Payloads from here on are never copied.
const SMALL_MAX: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends in steps of `step` bytes through `slots` slices.
    fn drain(output: &mut Output, step: usize, slots: usize) -> Vec<u8> {
        let mut sent = Vec::new();
        while !output.is_empty() {
            let mut slices = vec![IoSlice::new(&[]); slots];
            let used = output.gather(&mut slices);
            let bytes: Vec<u8> = slices[..used]
                .iter()
                .flat_map(|slice| slice.to_vec())
                .take(step)
                .collect();
            output.consume(bytes.len());
            sent.extend(bytes);
        }
        sent
    }

    #[test]
    fn bytes_leave_in_order_in_any_steps() {
        for (step, slots) in [(1, 1), (3, 2), (7, 64), (1000, 2), (100_000, 64)] {
            let mut output = Output::default();
            let mut wanted = Vec::new();
            for number in 0..200_u8 {
                output.header(|out| out.extend_from_slice(&[number; 28]));
                output.data(Bytes::from(vec![number; usize::from(number)]));
                wanted.extend_from_slice(&vec![number; 28 + usize::from(number)]);
            }
            assert_eq!(output.len(), wanted.len());
            assert!(
                drain(&mut output, step, slots) == wanted,
                "{step} bytes, {slots} slices"
            );
        }
    }

    #[test]
    fn small_payloads_that_wait_let_go_of_what_they_are_part_of() {
        let mut output = Output::default();
        let buffers: Vec<Bytes> = (0..4_u8).map(|byte| vec![byte; 65_536].into()).collect();
        for buffer in &buffers {
            output.header(|out| out.push(9));
            output.data(buffer.slice(1000..2000));
            output.detach();
            output.consume(500);
            assert!(buffer.is_unique());
        }
        output.data(buffers[0].slice(..40_000));
        output.detach();
        assert!(!buffers[0].is_unique(), "a long one is not copied");
        let mut wanted: Vec<u8> = Vec::new();
        for byte in 0..4 {
            wanted.push(9);
            wanted.extend([byte; 1000]);
        }
        wanted.extend([0; 40_000]);
        assert_eq!(drain(&mut output, 777, 2), wanted[2000..]);
    }

    #[test]
    fn headers_do_not_pile_up_behind_a_queue_that_never_drains() {
        let mut output = Output::default();
        for _ in 0..10_000 {
            output.header(|out| out.extend_from_slice(&[0; 16]));
            output.data(Bytes::from_static(&[1; 10]));
            if output.len() > 1000 {
                output.consume(26);
            }
        }
        assert!(
            output.headers.len() < 3 * SENT_HEADERS_MAX,
            "{}",
            output.headers.len()
        );
    }
}
