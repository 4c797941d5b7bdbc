//! QEMU with its serial console on pipes.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// A running machine. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Console {
    child: Child,
    output: Receiver<Vec<u8>>,
    seen: Vec<u8>,
}

impl Console {
    /// Starts the machine.
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run qemu-system-x86_64; install the package qemu-system-x86")?;
        let mut stdout = child.stdout.take().context("the console has an output")?;
        let (sender, output) = channel();
        std::thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                    if sender
                        .send(buffer.get(..count).unwrap_or_default().to_vec())
                        .is_err()
                    {
                        break;
                    }
                }
            })?;
        Ok(Self {
            child,
            output,
            seen: Vec::new(),
        })
    }

    /// Waits until the machine prints `text`.
    pub(super) fn expect(&mut self, text: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(at) = find(&self.seen, text.as_bytes()) {
                self.seen.drain(..at + text.len());
                return Ok(());
            }
            match self
                .output
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(more) => self.seen.extend(more),
                Err(RecvTimeoutError::Timeout) => bail!(
                    "the guest did not print `{text}` within {} s; its last words: {}",
                    limit.as_secs(),
                    self.last_words()
                ),
                Err(RecvTimeoutError::Disconnected) => bail!("QEMU ended: {}", self.complaint()),
            }
        }
    }

    /// Types something.
    pub(super) fn type_text(&mut self, text: &str) -> Result<()> {
        let stdin = self
            .child
            .stdin
            .as_mut()
            .context("the console has an input")?;
        stdin
            .write_all(text.as_bytes())
            .and_then(|()| stdin.flush())
            .context("the guest's console is closed")
    }

    /// Waits until the machine is off.
    pub(super) fn wait(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            match self
                .output
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(more) => self.seen.extend(more),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the guest did not switch off within {} s", limit.as_secs())
                }
            }
        }
        let status = self.child.wait().context("cannot wait for QEMU")?;
        if status.success() {
            return Ok(());
        }
        bail!("QEMU ended with {status}: {}", self.complaint())
    }

    fn last_words(&self) -> String {
        let from = self.seen.len().saturating_sub(300);
        String::from_utf8_lossy(self.seen.get(from..).unwrap_or_default())
            .replace(['\r', '\n'], " ")
    }

    fn complaint(&mut self) -> String {
        let mut text = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            drop(stderr.read_to_string(&mut text));
        }
        let text = text.trim().replace('\n', "; ");
        if text.is_empty() {
            self.last_words()
        } else {
            text
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn find(all: &[u8], part: &[u8]) -> Option<usize> {
    all.windows(part.len()).position(|window| window == part)
}
