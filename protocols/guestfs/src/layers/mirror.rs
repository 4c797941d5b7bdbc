//! The same on all members: RAID 1, and mirrored logical volumes.

use std::ops::Range;

use export::Segments;

use super::{Found, Layer, Member};
use crate::bytes::to_usize;
use crate::source::end_within;
use crate::{GuestError, Source};

/// The same on all members.
///
/// Always the first that is good is read, so that what differs among them after a crash reads the same every time, as
/// it does where the kernel has not yet brought them into agreement.
pub(crate) struct Mirror {
    members: Vec<Member>,
    length_bytes: u64,
}

impl Mirror {
    pub(crate) fn new(members: Vec<Member>, length_bytes: u64) -> Self {
        Self {
            members,
            length_bytes,
        }
    }
}

impl Source for Mirror {
    fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    fn read(&self, offset: u64, length: usize) -> Result<Segments, GuestError> {
        let end = end_within(offset, length, self.length_bytes)?;
        let mut gathered = Segments::new();
        let mut at = offset;
        while at < end {
            let until = self
                .members
                .iter()
                .fold(end, |until, member| member.same_until(at, until));
            gathered.append(first_good(&self.members, at, to_usize(until - at))?);
            at = until;
        }
        Ok(gathered)
    }
}

/// What lies at a place of the first member where it is good.
fn first_good(members: &[Member], at: u64, length: usize) -> Result<Segments, GuestError> {
    for member in members {
        if let Some(read) = member.read(at, length)? {
            return Ok(read);
        }
    }
    Err(GuestError::missing(format!(
        "a good copy of byte {at} of a mirror"
    )))
}

impl Layer for Mirror {
    fn below(&self, range: Range<u64>, found: &mut Found<'_>) -> Result<(), GuestError> {
        let range = range.start..range.end.min(self.length_bytes);
        let mut members = self.members.iter();
        members.try_for_each(|member| member.below(range.clone(), found))
    }

    fn cost(&self) -> u64 {
        self.members.iter().map(Member::cost).sum()
    }
}
