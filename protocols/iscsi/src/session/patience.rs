//! How long a session waits for its initiator.
//!
//! Time is told from outside, now and then; in between it is only noted that something came or went.

use std::time::{Duration, Instant};

use super::full_feature::FullFeature;
use crate::error::SessionError;
use crate::wire::NO_TAG;

/// How long a session waits for its initiator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Silence after which the initiator is asked whether it is there.
    pub ping_after: Duration,
    /// How long it may take to answer.
    pub ping_timeout: Duration,
    /// How long it may stop in the middle of a PDU or of data that it was asked for, or not read.
    pub stall_timeout: Duration,
}

/// When an initiator last did something.
#[derive(Debug)]
pub(super) struct Patience {
    timing: Timing,
    has_spoken: bool,
    has_read: bool,
    has_sent_data: bool,
    spoke: Option<Instant>,
    read: Option<Instant>,
    sent_data: Option<Instant>,
    pinged: Option<Instant>,
}

/// What is to be done about an initiator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remedy {
    Nothing,
    Ping,
}

/// What the initiator owes.
#[derive(Debug, Clone, Copy)]
struct Owed {
    /// The rest of a PDU.
    pdu: bool,
    /// Data that it was asked for.
    data: bool,
    /// To read what waits.
    reading: bool,
}

impl Patience {
    pub(super) fn new(timing: Timing) -> Self {
        Self {
            timing,
            has_spoken: true,
            has_read: true,
            has_sent_data: true,
            spoke: None,
            read: None,
            sent_data: None,
            pinged: None,
        }
    }

    /// Bytes came.
    pub(super) fn heard(&mut self) {
        self.has_spoken = true;
    }

    /// Bytes went.
    pub(super) fn read(&mut self) {
        self.has_read = true;
    }

    /// Data of a write came.
    pub(super) fn got_data(&mut self) {
        self.has_sent_data = true;
    }

    fn check(&mut self, now: Instant, owed: Owed) -> Result<Remedy, SessionError> {
        let since = |was: &mut Option<Instant>, progress: bool| {
            if progress {
                *was = Some(now);
            }
            now.saturating_duration_since(*was.get_or_insert(now))
        };
        let has_spoken = std::mem::take(&mut self.has_spoken);
        let silent = since(&mut self.spoke, has_spoken);
        let has_read = std::mem::take(&mut self.has_read) || !owed.reading;
        let unread = since(&mut self.read, has_read);
        let has_sent_data = std::mem::take(&mut self.has_sent_data) || !owed.data;
        let without_data = since(&mut self.sent_data, has_sent_data);
        let Timing {
            ping_after,
            ping_timeout,
            stall_timeout,
        } = self.timing;
        if unread >= stall_timeout {
            return Err(SessionError::SlowReader);
        }
        if owed.pdu && silent >= stall_timeout || without_data >= stall_timeout {
            return Err(SessionError::Stalled);
        }
        if has_spoken {
            self.pinged = None;
        }
        match self.pinged {
            Some(at) if now.saturating_duration_since(at) >= ping_timeout => {
                Err(SessionError::Silent(silent))
            }
            None if silent >= ping_after => {
                self.pinged = Some(now);
                Ok(Remedy::Ping)
            }
            _ => Ok(Remedy::Nothing),
        }
    }
}

impl FullFeature {
    /// Tells the time, now and then.
    ///
    /// # Errors
    /// If the initiator has kept the session waiting for too long.
    pub fn tick(&mut self, now: Instant) -> Result<(), SessionError> {
        let owed = Owed {
            pdu: self.receiver.is_inside() && self.wants_input(),
            data: self.tasks.any_receiving() && self.wants_input(),
            reading: !self.sender.output.is_empty(),
        };
        if self.patience.check(now, owed)? == Remedy::Ping {
            let tag = self.transfer_tag();
            self.nop_in(NO_TAG, tag, [0; 8], &[]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Owed = Owed {
        pdu: false,
        data: false,
        reading: false,
    };

    fn patience() -> (Patience, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        let timing = Timing {
            ping_after: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(30),
        };
        let at = move |secs| start + Duration::from_secs(secs);
        (Patience::new(timing), at)
    }

    #[test]
    fn silence_is_asked_about_and_then_ends_the_session() {
        let (mut patience, at) = patience();
        assert_eq!(patience.check(at(0), NOTHING), Ok(Remedy::Nothing));
        assert_eq!(patience.check(at(9), NOTHING), Ok(Remedy::Nothing));
        assert_eq!(patience.check(at(10), NOTHING), Ok(Remedy::Ping));
        assert_eq!(patience.check(at(14), NOTHING), Ok(Remedy::Nothing));
        patience.heard();
        assert_eq!(
            patience.check(at(16), NOTHING),
            Ok(Remedy::Nothing),
            "it answered"
        );
        assert_eq!(patience.check(at(26), NOTHING), Ok(Remedy::Ping));
        let silent = SessionError::Silent(Duration::from_secs(15));
        assert_eq!(patience.check(at(31), NOTHING), Err(silent));
    }

    #[test]
    fn what_is_owed_has_its_time() {
        let check = |owed: Owed, wanted: SessionError| {
            let (mut patience, at) = patience();
            for secs in 0..=29 {
                patience.pinged = None;
                assert!(patience.check(at(secs), owed).is_ok());
            }
            patience.pinged = None;
            assert_eq!(patience.check(at(30), owed), Err(wanted));
        };
        check(
            Owed {
                pdu: true,
                ..NOTHING
            },
            SessionError::Stalled,
        );
        check(
            Owed {
                data: true,
                ..NOTHING
            },
            SessionError::Stalled,
        );
        check(
            Owed {
                reading: true,
                ..NOTHING
            },
            SessionError::SlowReader,
        );
    }
}
