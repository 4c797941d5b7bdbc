//! How each side of a ring tells the other that there is something.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

/// The device: it can be read when the kernel has written something, and writing to it says that there are answers.
#[derive(Debug)]
pub struct Doorbell {
    device: Arc<File>,
}

/// How a thread that waits at a doorbell is told to end.
#[derive(Debug)]
pub(super) struct End(OwnedFd);

/// What a wait ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// The kernel has something.
    Rung,
    /// The thread has to end.
    End,
}

impl Doorbell {
    /// The doorbell of an open device, or of what plays one: four bytes each way for each ring.
    pub fn new(device: Arc<File>) -> Self {
        Self { device }
    }

    /// Tells the kernel that there are answers.
    pub(super) fn ring(&self) -> io::Result<()> {
        let count = loop {
            match rustix::io::write(&*self.device, &[0; WORD_BYTES]) {
                Err(Errno::INTR) => {}
                other => break other?,
            }
        };
        match count {
            WORD_BYTES => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// Waits for the kernel or for the end.
    pub(super) fn wait(&self, end: &End) -> io::Result<Call> {
        loop {
            let mut waiting = [
                PollFd::new(&*self.device, PollFlags::IN),
                PollFd::new(&end.0, PollFlags::IN),
            ];
            match poll(&mut waiting, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let [device, end] = &waiting;
            if end.revents().contains(PollFlags::IN) {
                return Ok(Call::End);
            }
            if device.revents().is_empty() {
                continue;
            }
            let mut count = [0; WORD_BYTES];
            match rustix::io::read(&*self.device, &mut count) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => return Ok(Call::Rung),
                // Somebody else was quicker, or it was for nothing.
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl End {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?))
    }

    pub(super) fn tell(&self) {
        rustix::io::write(self.0.as_fd(), &1_u64.to_ne_bytes())
            .expect("a counter that is written to once has room");
    }
}

/// uio reads and writes a word.
const WORD_BYTES: usize = 4;
