//! A client that blocks: no runtime, no threads, one connection at a time.
//!
//! A connection that breaks is made again, and a stream under way goes on where the daemon has it: whoever writes or reads does
//! not notice. Only when that does not succeed within [`Settings::resume`], or the daemon has forgotten the session, is there an
//! error.

mod dial;
mod error;
mod reading;
mod requests;
mod settings;
mod writing;

pub use error::ClientError;
pub use settings::{Place, Settings};

use std::fmt;
use std::time::{Duration, Instant};

use crate::connection::{Connection, ReceiveError};
use crate::wire::{Frame, Kind, Malformed, Refusal, Welcome};
use reading::Incoming;
use writing::Outgoing;

/// A session with the daemon.
pub struct Client {
    settings: Settings,
    connection: Option<Connection>,
    welcome: Welcome,
    activity: Activity,
}

/// What is under way.
#[derive(Debug)]
enum Activity {
    Nothing,
    Writing(Outgoing),
    Reading(Incoming),
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// If the daemon cannot be reached or does not let this client in.
    pub fn connect(settings: Settings) -> Result<Self, ClientError> {
        let (connection, welcome) = dial::dial(&settings, None)?;
        Ok(Self {
            settings,
            connection: Some(connection),
            welcome,
            activity: Activity::Nothing,
        })
    }

    /// The workload whose streams these are.
    pub fn workload(&self) -> &str {
        &self.welcome.workload
    }

    /// The daemon's version.
    pub fn daemon(&self) -> &str {
        &self.welcome.daemon
    }

    /// Ends the session. A stream on its way in is dropped.
    pub fn close(mut self) {
        if let Some(mut connection) = self.connection.take() {
            // Whether it arrives or not: the session ends.
            drop(connection.send(&Frame::bare(Kind::Bye)));
            connection.close();
        }
    }

    /// The connection, made again if it broke. Nothing is under way that would have to go on.
    fn connected(&mut self) -> Result<&mut Connection, ClientError> {
        if self.connection.is_none() {
            let settings = &self.settings;
            let (connection, welcome) = patiently(settings.resume, || dial::dial(settings, None))?;
            self.welcome = welcome;
            return Ok(self.connection.insert(connection));
        }
        self.connection.as_mut().ok_or(ClientError::Closed)
    }

    /// The next frame that says anything.
    fn answer(&mut self) -> Result<Frame, ClientError> {
        let connection = self.connection.as_mut().ok_or(ClientError::Closed)?;
        loop {
            match connection.receive() {
                Ok(frame) if frame.kind == Kind::Wait => {}
                Ok(frame) if frame.kind == Kind::Refused => {
                    return Err(ClientError::Refused(frame.read::<Refusal>()?));
                }
                Ok(frame) => return Ok(frame),
                Err(error) => {
                    self.connection = None;
                    return Err(match error {
                        ReceiveError::Malformed(malformed) => malformed.into(),
                        broken => ClientError::Broken(broken.to_string()),
                    });
                }
            }
        }
    }

    fn send(&mut self, frame: &Frame) -> Result<(), ClientError> {
        let connection = self.connection.as_mut().ok_or(ClientError::Closed)?;
        connection.send(frame).map_err(|error| {
            self.connection = None;
            ClientError::Broken(error.to_string())
        })
    }

    fn is_idle(&self) -> Result<(), ClientError> {
        match self.activity {
            Activity::Nothing => Ok(()),
            Activity::Writing(_) => Err(ClientError::Misused("a stream is being written")),
            Activity::Reading(_) => Err(ClientError::Misused("a stream is being read")),
        }
    }
}

/// Tries again, with pauses that grow, for as long as `limit` as the connection is what fails.
fn patiently<T>(
    limit: Duration,
    mut attempt: impl FnMut() -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let began = Instant::now();
    let mut pause = PAUSE_FIRST;
    loop {
        match attempt() {
            Err(error) if error.is_of_connection() && began.elapsed() + pause < limit => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(PAUSE_LONGEST);
            }
            other => return other,
        }
    }
}

fn unexpected(_: &Frame) -> ClientError {
    ClientError::Protocol(Malformed("an answer belongs to another question"))
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Client")
            .field("workload", &self.welcome.workload)
            .field("activity", &self.activity)
            .finish_non_exhaustive()
    }
}

const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LONGEST: Duration = Duration::from_secs(5);
