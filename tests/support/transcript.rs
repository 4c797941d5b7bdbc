//! Text that grows while a program runs: a serial console, a log.

use std::fmt;
use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// What a program has printed so far; any number of threads may wait for more.
#[derive(Clone)]
pub struct Transcript {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    ended: bool,
}

impl Transcript {
    /// Reads `source` to its end on a thread of its own.
    pub fn follow(mut source: impl Read + Send + 'static) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let writer = Arc::clone(&shared);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                let Some(new) = buffer.get(..count) else {
                    break;
                };
                lock(&writer).bytes.extend_from_slice(new);
                writer.changed.notify_all();
            }
            lock(&writer).ended = true;
            writer.changed.notify_all();
        });
        Self { shared }
    }

    /// Waits until `text` appears at or after byte `from`, and gives the position just behind it.
    ///
    /// # Panics
    /// When the program ends, or `limit` passes, without it.
    pub fn wait_for(&self, text: &str, from: usize, limit: Duration) -> usize {
        let deadline = Instant::now() + limit;
        let mut state = lock(&self.shared);
        let mut searched = from;
        loop {
            let unread = state.bytes.get(searched..).unwrap_or_default();
            if let Some(found) = find(unread, text.as_bytes()) {
                return searched + found + text.len();
            }
            // The next search starts where a part of the text may already stand.
            searched = state.bytes.len().saturating_sub(text.len()).max(from);
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                let why = if state.ended {
                    "the program ended"
                } else {
                    "it took too long"
                };
                let tail = String::from_utf8_lossy(&state.bytes).into_owned();
                drop(state);
                panic!(
                    "waited for \"{text}\", but {why}; the end of what it printed:\n{}",
                    last_lines(&tail, 40)
                );
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .expect("no reader panics")
                .0;
        }
    }

    /// Waits until the program has closed its end, and says whether it did so within `limit`.
    pub fn ends_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = lock(&self.shared);
        while !state.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .expect("no reader panics")
                .0;
        }
        true
    }

    /// How many bytes there are so far.
    pub fn len(&self) -> usize {
        lock(&self.shared).bytes.len()
    }

    /// Says whether nothing has been printed so far.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The text from byte `from` to byte `to`.
    pub fn text(&self, from: usize, to: usize) -> String {
        let state = lock(&self.shared);
        String::from_utf8_lossy(
            state
                .bytes
                .get(from..to.min(state.bytes.len()))
                .unwrap_or_default(),
        )
        .into_owned()
    }

    /// All of the text so far.
    pub fn all(&self) -> String {
        self.text(0, usize::MAX)
    }
}

impl fmt::Debug for Transcript {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Transcript({} bytes)", self.len())
    }
}

/// The last `count` lines of `text`.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines
        .get(lines.len().saturating_sub(count)..)
        .unwrap_or_default()
        .join("\n")
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared
        .state
        .lock()
        .expect("no reader panics while it holds the text")
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_text_that_comes_in_two_pieces() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let transcript = Transcript::follow(reader);
        std::io::Write::write_all(&mut writer, b"log").unwrap();
        transcript.wait_for("log", 0, Duration::from_secs(10));
        std::io::Write::write_all(&mut writer, b"in: and more").unwrap();
        assert_eq!(transcript.wait_for("login:", 0, Duration::from_secs(10)), 6);
    }

    #[test]
    #[should_panic(expected = "the program ended")]
    fn tells_that_the_program_ended() {
        Transcript::follow(&b"nothing of interest"[..]).wait_for(
            "login:",
            0,
            Duration::from_secs(10),
        );
    }
}
