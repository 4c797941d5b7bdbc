//! The task that carries bytes between one socket and its [`Session`].

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::server::Shared;
use crate::service::{Completion, Deferred};
use crate::session::{Inlet, Session};

/// Since when a peer has stood still, in ticks of the server's watch; 0 while it does not.
#[derive(Debug)]
pub(crate) struct Progress {
    record_since: AtomicU64,
    answers_since: AtomicU64,
}

impl Progress {
    /// A new connection owes its first record.
    pub(crate) fn new(now: u64) -> Self {
        Self {
            record_since: AtomicU64::new(now),
            answers_since: AtomicU64::new(0),
        }
    }

    pub(crate) fn is_stuck(&self, now: u64, record: u128, answers: u128) -> bool {
        let longer = |since: u64, limit: u128| since != 0 && u128::from(now - since) > limit;
        longer(self.record_since.load(Ordering::Relaxed), record)
            || longer(self.answers_since.load(Ordering::Relaxed), answers)
    }

    fn note(cell: &AtomicU64, waits: bool, now: impl FnOnce() -> u64) {
        match (waits, cell.load(Ordering::Relaxed)) {
            (true, 0) => cell.store(now(), Ordering::Relaxed),
            (false, since) if since != 0 => cell.store(0, Ordering::Relaxed),
            _ => {}
        }
    }
}

/// Serves one connection to its end.
pub(crate) async fn serve(
    stream: TcpStream,
    session: Session,
    completions: UnboundedReceiver<Completion>,
    shared: &Arc<Shared>,
    progress: &Progress,
) {
    let carrier = Carrier {
        stream,
        answers: session.answers(),
        session,
        completions,
        backlog: VecDeque::new(),
        records: 0,
        shared: Arc::clone(shared),
    };
    if let Err(error) = carrier.run(progress).await {
        tracing::debug!(%error, "a connection ended");
    }
}

struct Carrier {
    stream: TcpStream,
    session: Session,
    answers: UnboundedSender<Completion>,
    completions: UnboundedReceiver<Completion>,
    /// Work for which the pool had no room.
    backlog: VecDeque<Slot>,
    /// Records that the watch knows of.
    records: u64,
    shared: Arc<Shared>,
}

/// Work on its way to the pool, which drops what it has no room for.
type Slot = Arc<Mutex<Option<Deferred>>>;

impl Carrier {
    async fn run(mut self, progress: &Progress) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        rustix::net::sockopt::set_socket_keepalive(&self.stream, true)?;
        loop {
            self.session.advance().map_err(io::Error::other)?;
            self.submit();
            let sent = self.flush()?;
            let waits = !self.session.output().is_empty();
            if sent {
                Progress::note(&progress.answers_since, false, || 0);
            }
            Progress::note(&progress.answers_since, waits, || self.shared.tick());
            if !waits && self.session.wants_input() && self.session.has_record() {
                tokio::task::consume_budget().await;
                continue;
            }
            if self.records != self.session.records() {
                self.records = self.session.records();
                Progress::note(&progress.record_since, false, || 0);
            }
            let owed = self.session.is_owed();
            Progress::note(&progress.record_since, owed, || self.shared.tick());
            if !self.wait().await? {
                return Ok(());
            }
        }
    }

    /// Waits for the socket or for answers, and takes what has come. False at the end of the peer's bytes.
    async fn wait(&mut self) -> io::Result<bool> {
        let reads = self.session.wants_bytes();
        let interest = match (reads, self.session.output().is_empty()) {
            (true, true) => Some(Interest::READABLE),
            (true, false) => Some(Interest::READABLE | Interest::WRITABLE),
            (false, false) => Some(Interest::WRITABLE),
            (false, true) => None,
        };
        if !self.session.expects_answers() {
            self.stream
                .ready(interest.unwrap_or(Interest::READABLE))
                .await?;
            return if reads { self.read() } else { Ok(true) };
        }
        let has_backlog = !self.backlog.is_empty();
        tokio::select! {
            ready = async { self.stream.ready(interest.unwrap_or(Interest::READABLE)).await },
                if interest.is_some() =>
            {
                if ready?.is_readable() && reads {
                    return self.read();
                }
            }
            Some(completion) = self.completions.recv() => {
                self.session.complete(completion);
                while let Ok(more) = self.completions.try_recv() {
                    self.session.complete(more);
                }
            }
            () = tokio::time::sleep(BACKLOG_PAUSE), if has_backlog => {}
        }
        Ok(true)
    }

    fn read(&mut self) -> io::Result<bool> {
        let read = match self.session.inlet() {
            Inlet::Stream(mut input) => self.stream.try_read_buf(&mut input),
            Inlet::Record(record) => self
                .stream
                .try_read(record.unfilled())
                .inspect(|count| record.advance(*count)),
        };
        match read {
            Ok(0) => Ok(false),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Sends as much as the socket takes; whether that was anything.
    fn flush(&mut self) -> io::Result<bool> {
        let mut any = false;
        while !self.session.output().is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = self.session.output().fill(&mut slices);
            match self
                .stream
                .try_write_vectored(slices.get(..filled).unwrap_or_default())
            {
                Ok(count) => {
                    any = true;
                    self.session.sent(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(any)
    }

    /// Hands deferred work to the pool, oldest first.
    fn submit(&mut self) {
        while let Some(work) = self.session.take_deferred() {
            self.shared.service.metrics.deferred.add(1);
            self.backlog.push_back(Arc::new(Mutex::new(Some(work))));
        }
        while let Some(slot) = self.backlog.front() {
            let slot = Arc::clone(slot);
            let service = Arc::clone(&self.shared.service);
            let answers = self.answers.clone();
            let job = move || {
                let work = slot.lock().take();
                if let Some(work) = work {
                    work.execute(&service, &answers);
                }
            };
            if self.shared.pool.submit(job).is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }
}

const SLICES: usize = 64;
const BACKLOG_PAUSE: Duration = Duration::from_millis(1);
