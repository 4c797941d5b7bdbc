//! Progress of long work on stderr: a bar on a terminal, a line every few seconds elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use super::output::{show, size, tell};

/// Shows how far something is.
#[derive(Debug)]
pub(super) struct Progress {
    what: String,
    total_bytes: u64,
    started: Instant,
    shown: Option<Instant>,
    terminal: bool,
    drawn: bool,
}

impl Progress {
    /// Nothing is done yet.
    pub(super) fn start(what: impl Into<String>, total_bytes: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self {
            what: what.into(),
            total_bytes,
            started: Instant::now(),
            shown: None,
            terminal,
            drawn: false,
        }
    }

    /// So much is done; `total_bytes` may have become better known.
    pub(super) fn at(&mut self, done_bytes: u64, total_bytes: u64) {
        self.total_bytes = total_bytes;
        let now = Instant::now();
        let pause = if self.terminal { BAR_PAUSE } else { LINE_PAUSE };
        if now.duration_since(self.shown.unwrap_or(self.started)) < pause {
            return;
        }
        self.shown = Some(now);
        let rate = rate(done_bytes, now.duration_since(self.started));
        let percent = (u128::from(done_bytes) * 100)
            .checked_div(u128::from(self.total_bytes))
            .map(|percent| percent.min(100));
        let text = match percent {
            Some(percent) => {
                let (done, total) = (size(done_bytes), size(self.total_bytes));
                format!("{}: {percent:>3} %  {done} of {total}  {rate}/s", self.what)
            }
            // How much there is to do is not known yet.
            None => format!("{}: {}  {rate}/s", self.what, size(done_bytes)),
        };
        if self.terminal {
            let full = usize::try_from(percent.unwrap_or(0) / 5).unwrap_or(0);
            show(&format!("\r[{:<20}] {text}\x1b[K", "#".repeat(full)));
            self.drawn = true;
        } else {
            tell(text);
        }
    }

    /// How long it took.
    pub(super) fn finish(self) -> Duration {
        if self.drawn {
            show("\r\x1b[K");
        }
        self.started.elapsed()
    }
}

/// Bytes in a second.
pub(super) fn rate(bytes: u64, time: Duration) -> String {
    let milliseconds = time.as_millis().max(1);
    size(u64::try_from(u128::from(bytes) * 1000 / milliseconds).unwrap_or(u64::MAX))
}

const BAR_PAUSE: Duration = Duration::from_millis(100);
const LINE_PAUSE: Duration = Duration::from_secs(3);
