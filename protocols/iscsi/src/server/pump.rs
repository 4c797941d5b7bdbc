//! Moves the bytes of a session between its socket and its state machine.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use crate::error::ConnectionError;
use crate::session::FullFeature;

/// A session with its timers.
pub(super) struct Pump {
    pub(super) session: FullFeature,
    /// Running while others take all there is of something.
    pause: Option<Pin<Box<Sleep>>>,
    clock: Pin<Box<Sleep>>,
    every: Duration,
}

impl Pump {
    /// Tells the session the time every so often.
    pub(super) fn new(session: FullFeature, every: Duration) -> Self {
        Self {
            session,
            pause: None,
            clock: Box::pin(tokio::time::sleep(every)),
            every,
        }
    }

    /// Goes on until the session is over.
    pub(super) fn poll<S>(
        &mut self,
        mut stream: Pin<&mut S>,
        waker: &mut Context<'_>,
    ) -> Poll<Result<(), ConnectionError>>
    where
        S: AsyncRead + AsyncWrite,
    {
        loop {
            self.session.poll_events(waker);
            self.poll_timers(waker)?;
            let advanced = self.session.advance();
            let replied = !self.session.output().is_empty();
            let sent = self
                .poll_send(stream.as_mut(), waker)
                .map_err(ConnectionError::Socket)?;
            // What there was to say has been said, as far as the socket took it.
            advanced?;
            if self.session.is_over() {
                return Poll::Ready(Ok(()));
            }
            if self.session.is_starved() && self.pause.is_none() {
                self.pause = Some(Box::pin(tokio::time::sleep(STARVED_PAUSE)));
                continue;
            }
            if replied && sent.is_ready() {
                self.session.settle();
                if !self.session.output().is_empty() || !self.session.wants_input() {
                    // What was held back may be possible now, and nobody would wake this task for it.
                    continue;
                }
                if self.session.has_waiting() {
                    continue;
                }
            }
            if !self.session.wants_input() {
                return Poll::Pending;
            }
            let filled = ready!(self.session.poll_fill(stream.as_mut(), waker))
                .map_err(ConnectionError::Socket)?;
            if filled == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn poll_timers(&mut self, waker: &mut Context<'_>) -> Result<(), ConnectionError> {
        if let Some(pause) = &mut self.pause
            && pause.as_mut().poll(waker).is_ready()
        {
            self.pause = None;
        }
        while self.clock.as_mut().poll(waker).is_ready() {
            let now = Instant::now();
            self.session.tick(now.into_std())?;
            self.clock.as_mut().reset(now + self.every);
        }
        Ok(())
    }

    /// Sends what waits, as far as the socket takes it.
    fn poll_send<S: AsyncWrite>(
        &mut self,
        mut stream: Pin<&mut S>,
        waker: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.session.output().is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let used = self.session.output().gather(&mut slices);
            let slices = slices.get(..used).unwrap_or_default();
            let sent = ready!(stream.as_mut().poll_write_vectored(waker, slices))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.session.sent(sent);
        }
        Poll::Ready(Ok(()))
    }
}

/// Most slices of one write.
const SLICES: usize = 128;
/// Pause before the pool, or the memory, is asked again.
const STARVED_PAUSE: Duration = Duration::from_millis(1);
