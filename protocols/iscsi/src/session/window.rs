//! The order of commands, and how many the initiator may send (RFC 7143, 4.2.2.1).

use std::collections::BTreeSet;

use crate::error::SessionError;
use crate::wire::precedes;

/// The command window of a session.
#[derive(Debug)]
pub(super) struct Window {
    expected: u32,
    /// The last number that the initiator may use.
    last: u32,
    depth: u32,
    /// Numbers of commands that were aborted before they came; they do not come any more.
    abandoned: BTreeSet<u32>,
}

/// What to do with a request of some number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is its turn.
    Now,
    /// It is outside of the window: as if it had not come.
    Never,
}

impl Window {
    /// Starts with a window that is open for `depth` commands.
    pub(super) fn new(expected: u32, depth: u32) -> Self {
        Self {
            expected,
            last: expected.wrapping_add(depth).wrapping_sub(1),
            depth,
            abandoned: BTreeSet::new(),
        }
    }

    /// `ExpCmdSN`.
    pub(super) fn expected(&self) -> u32 {
        self.expected
    }

    /// `MaxCmdSN`.
    pub(super) fn last(&self) -> u32 {
        self.last
    }

    /// Whether the initiator may send a command.
    pub(super) fn is_open(&self) -> bool {
        !precedes(self.last, self.expected)
    }

    /// Takes the number of a request that came.
    ///
    /// # Errors
    /// If a number was passed over: there is one connection, so the command in between is lost.
    pub(super) fn take(&mut self, number: u32, is_immediate: bool) -> Result<Turn, SessionError> {
        if is_immediate {
            return Ok(Turn::Now);
        }
        if precedes(number, self.expected) || precedes(self.last, number) {
            return Ok(Turn::Never);
        }
        if self.abandoned.remove(&number) {
            return Ok(Turn::Never);
        }
        if number != self.expected {
            return Err(SessionError::CommandMissing {
                expected: self.expected,
                got: number,
            });
        }
        self.advance();
        Ok(Turn::Now)
    }

    /// Takes it that the command `number` has come and was aborted. Says whether it still could have come.
    pub(super) fn abandon(&mut self, number: u32) -> bool {
        if precedes(number, self.expected) || precedes(self.last, number) {
            return false;
        }
        if number == self.expected {
            self.advance();
        } else {
            self.abandoned.insert(number);
        }
        true
    }

    /// Opens the window as far as `outstanding` commands and the memory allow. It is never taken back: a window shrinks
    /// by not moving.
    pub(super) fn move_on(&mut self, outstanding: usize, has_room: bool) {
        let outstanding = u32::try_from(outstanding).unwrap_or(u32::MAX);
        let free = if has_room {
            self.depth.saturating_sub(outstanding)
        } else {
            0
        };
        let last = self.expected.wrapping_add(free).wrapping_sub(1);
        if precedes(self.last, last) {
            self.last = last;
        }
    }

    fn advance(&mut self) {
        self.expected = self.expected.wrapping_add(1);
        while self.abandoned.remove(&self.expected) {
            self.expected = self.expected.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_come_in_order_within_the_window() {
        let mut window = Window::new(u32::MAX, 4);
        assert_eq!(window.last(), 2);
        assert_eq!(window.take(u32::MAX - 1, false), Ok(Turn::Never), "too low");
        assert_eq!(window.take(3, false), Ok(Turn::Never), "too high");
        assert_eq!(window.take(u32::MAX, false), Ok(Turn::Now));
        assert_eq!(window.take(u32::MAX, true), Ok(Turn::Now), "immediate");
        assert_eq!(window.expected(), 0);
        let missing = SessionError::CommandMissing {
            expected: 0,
            got: 2,
        };
        assert_eq!(window.take(2, false), Err(missing));
    }

    #[test]
    fn the_window_moves_with_what_is_done_and_never_back() {
        let mut window = Window::new(10, 2);
        assert_eq!(window.take(10, false), Ok(Turn::Now));
        assert_eq!(window.take(11, false), Ok(Turn::Now));
        window.move_on(2, true);
        assert!(!window.is_open());
        window.move_on(1, false);
        assert!(!window.is_open(), "no memory, no window");
        window.move_on(1, true);
        assert!(window.is_open() && window.last() == 12);
        window.move_on(2, false);
        assert_eq!(window.last(), 12);
    }

    #[test]
    fn commands_that_were_abandoned_are_not_waited_for() {
        let mut window = Window::new(10, 8);
        assert!(window.abandon(11) && window.abandon(10));
        assert_eq!(window.expected(), 12);
        assert!(!window.abandon(10), "that one has come");
        assert!(window.abandon(13));
        assert_eq!(window.take(13, false), Ok(Turn::Never));
    }
}
