//! One thread that starts the process, and starts it again.
//!
//! The kernel ends a process with the thread that started it, so this thread lives as long as the worker does. While
//! there is a process it reads what that says on standard error, which ends when the process does.

use std::io::{BufRead as _, BufReader, Read};
use std::process::Child;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use export::ExportError;
use parking_lot::{Condvar, Mutex};

use crate::reader::Refusal;

use super::connection::Connection;
use super::disks::Disks;
use super::launch::{Launch, launch};

/// The thread, and what it and its owner tell one another.
pub(super) struct Supervision {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    phase: Mutex<Phase>,
    changed: Condvar,
}

/// How it stands with the process.
#[derive(Default)]
struct Phase {
    is_wanted: bool,
    is_over: bool,
    connection: Option<Arc<Connection>>,
    /// Why it did not start, until that is told.
    refusal: Option<Refusal>,
    /// How the last one ended.
    ended: Option<(u64, String)>,
}

impl Supervision {
    pub(super) fn start(
        launcher: Box<dyn Launch>,
        disks: Arc<Disks>,
        patience: Duration,
        idle: Option<Duration>,
    ) -> Result<Self, Refusal> {
        let shared = Arc::new(Shared {
            phase: Mutex::default(),
            changed: Condvar::new(),
        });
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("guest-worker".to_owned())
            .spawn(move || own.supervise(&*launcher, &disks, patience, idle))
            .map_err(|error| not_started(&error.to_string()))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// The process that there is, or a new one.
    pub(super) fn connection(&self) -> Result<Arc<Connection>, Refusal> {
        let mut phase = self.shared.phase.lock();
        loop {
            if let Some(refusal) = phase.refusal.take() {
                return Err(refusal);
            }
            if let Some(connection) = phase.connection.as_ref().filter(|one| !one.is_over()) {
                return Ok(Arc::clone(connection));
            }
            if phase.is_over {
                return Err(ExportError::ShuttingDown.into());
            }
            phase.is_wanted = true;
            self.shared.changed.notify_all();
            self.shared.changed.wait(&mut phase);
        }
    }

    /// How a process ended that takes no more requests. One that does not end by itself is ended.
    pub(super) fn how_it_ended(&self, connection: &Connection) -> String {
        let mut grace = Some(GRACE);
        let mut phase = self.shared.phase.lock();
        loop {
            match &phase.ended {
                Some((ended, how)) if *ended == connection.number() => return how.clone(),
                Some((ended, _)) if *ended > connection.number() => break,
                _ => {}
            }
            let until = Instant::now() + grace.unwrap_or(PATIENCE);
            if self
                .shared
                .changed
                .wait_until(&mut phase, until)
                .timed_out()
            {
                connection.close();
                if grace.take().is_none() {
                    break;
                }
            }
        }
        "nobody knows how".to_owned()
    }

    /// Ends the process and the thread.
    pub(super) fn stop(&mut self) {
        let connection = {
            let mut phase = self.shared.phase.lock();
            phase.is_over = true;
            phase.connection.take()
        };
        self.shared.changed.notify_all();
        if let Some(connection) = connection {
            connection.close();
        }
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn supervise(
        &self,
        launcher: &dyn Launch,
        disks: &Arc<Disks>,
        patience: Duration,
        idle: Option<Duration>,
    ) {
        let mut number = 0;
        while self.wait_until_wanted() {
            number += 1;
            match launch(number, launcher, disks, patience) {
                Ok((connection, mut child)) => {
                    let connection = Arc::new(connection);
                    self.tell(|phase| phase.connection = Some(Arc::clone(&connection)));
                    end_when_idle(&connection, idle);
                    self.watch(&connection, &mut child);
                    let how = ending(&mut child);
                    self.tell(|phase| {
                        phase.connection = None;
                        phase.ended = Some((number, how));
                    });
                }
                Err(refusal) => self.tell(|phase| {
                    phase.is_wanted = false;
                    phase.refusal = Some(refusal);
                }),
            }
        }
    }

    fn wait_until_wanted(&self) -> bool {
        let mut phase = self.phase.lock();
        while !phase.is_wanted && !phase.is_over {
            self.changed.wait(&mut phase);
        }
        !phase.is_over
    }

    fn tell(&self, what: impl FnOnce(&mut Phase)) {
        what(&mut self.phase.lock());
        self.changed.notify_all();
    }

    /// Returns when the process has ended. What it says goes to the log, as far as it may be believed.
    fn watch(&self, connection: &Connection, child: &mut Child) {
        {
            let mut phase = self.phase.lock();
            phase.is_wanted = false;
            if phase.is_over {
                drop(phase);
                connection.close();
            }
        }
        if let Some(stderr) = child.stderr.take() {
            let mut lines = BufReader::new(stderr);
            while let Some(line) = next_line(&mut lines) {
                tracing::warn!(line, "from the process that reads a guest's disks");
            }
        }
        connection.close();
    }
}

/// What costs much is not kept for nobody.
fn end_when_idle(connection: &Arc<Connection>, idle: Option<Duration>) {
    let Some(idle) = idle else {
        return;
    };
    let connection = Arc::clone(connection);
    let watch = move || {
        if connection.rest_when_idle(idle) {
            tracing::info!(
                "nobody asks any more: what reads a guest's disks is ended until somebody does"
            );
            connection.close();
        }
    };
    let started = std::thread::Builder::new()
        .name("guest-idle".to_owned())
        .spawn(watch);
    if let Err(error) = started {
        tracing::warn!(%error, "what reads a guest's disks goes on when nobody asks: no thread");
    }
}

/// A line, or as much of it as is worth keeping.
pub(super) fn next_line(lines: &mut impl std::io::BufRead) -> Option<String> {
    let mut line = Vec::new();
    lines.take(LINE_BYTES).read_until(b'\n', &mut line).ok()?;
    let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
    let text = String::from_utf8_lossy(&line);
    let text: String = text.trim_end().chars().map(plain).collect();
    Some(text).filter(|_| !line.is_empty())
}

pub(super) fn ending(child: &mut Child) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match child.wait() {
        Err(error) => error.to_string(),
        Ok(status) => match (status.signal(), status.code()) {
            (Some(signal), _) => signal_name(signal),
            (None, Some(code)) if code > 128 => signal_name(code - 128),
            (None, code) => format!("code {}", code.unwrap_or(-1)),
        },
    }
}

fn signal_name(signal: i32) -> String {
    match signal {
        // A first process of a namespace cannot send itself the signal by which others give up.
        libc::SIGABRT | libc::SIGSEGV => {
            "it gave up: a fault of its own, or too much memory".to_owned()
        }
        libc::SIGKILL => "it was killed".to_owned(),
        libc::SIGSYS => "a system call that it may not make".to_owned(),
        other => format!("signal {other}"),
    }
}

pub(super) fn not_started(why: &str) -> Refusal {
    let text = format!("the process that reads guests' disks does not start: {why}");
    let detail = text.as_str().into();
    Refusal::new(text, ExportError::Storage { detail })
}

/// Time to end alone.
const GRACE: Duration = Duration::from_millis(300);

/// Longest wait for the word of how a process ended.
const PATIENCE: Duration = Duration::from_secs(2);

const LINE_BYTES: u64 = 1024;
