//! One process, and the lanes to it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::lane::{Frame, Lane, LaneFault, Patience};
use crate::wire::{Body, Fields, Kind, Layers, Request};

use super::disks::Disks;

/// A process that reads, until it ends.
pub(crate) struct Connection {
    number: u64,
    process: u32,
    missing: Layers,
    disks: Arc<Disks>,
    patience: Duration,
    state: Mutex<State>,
    freed: Condvar,
    ended: Condvar,
    kill: Box<dyn Fn() + Send + Sync>,
}

struct State {
    free: Vec<Lane<UnixStream>>,
    lanes: usize,
    last_used: Instant,
    is_over: bool,
    is_at_rest: bool,
    culprit_is_known: bool,
}

/// What a connection is made of.
pub(super) struct Launched {
    pub(super) process: u32,
    pub(super) missing: Layers,
    pub(super) lanes: Vec<UnixStream>,
    pub(super) kill: Box<dyn Fn() + Send + Sync>,
}

/// A request on its way, on a lane of its own.
pub(super) struct Conversation {
    connection: Arc<Connection>,
    /// None when it is given back.
    lane: Option<Lane<UnixStream>>,
    turn: Turn,
}

/// Whose turn it is to speak.
#[derive(PartialEq, Eq)]
enum Turn {
    Ours,
    OursAfterPart,
    Theirs,
}

impl Connection {
    pub(super) fn new(
        number: u64,
        launched: Launched,
        disks: Arc<Disks>,
        patience: Duration,
    ) -> std::io::Result<Self> {
        // So often the clock is looked at while nothing comes.
        let tick = Some((patience / 16).clamp(Duration::from_millis(5), Duration::from_secs(1)));
        for lane in &launched.lanes {
            lane.set_read_timeout(tick)?;
            lane.set_write_timeout(tick)?;
        }
        Ok(Self {
            number,
            process: launched.process,
            missing: launched.missing,
            disks,
            patience,
            state: Mutex::new(State {
                lanes: launched.lanes.len(),
                last_used: Instant::now(),
                free: launched.lanes.into_iter().map(Lane::new).collect(),
                is_over: false,
                is_at_rest: false,
                culprit_is_known: false,
            }),
            freed: Condvar::new(),
            ended: Condvar::new(),
            kill: launched.kill,
        })
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn process(&self) -> u32 {
        self.process
    }

    pub(super) fn missing(&self) -> Layers {
        self.missing
    }

    /// Whether it is over.
    pub(super) fn is_over(&self) -> bool {
        self.state.lock().is_over
    }

    /// Whether it was ended because of one of its requests, so that the others are not to blame.
    pub(super) fn culprit_is_known(&self) -> bool {
        self.state.lock().culprit_is_known
    }

    /// Takes no more requests because of a fault on a lane. Who is to blame is ended at once; whoever ended by itself is
    /// given the time to say how.
    pub(super) fn end(&self, fault: &LaneFault) {
        let mut state = self.state.lock();
        if state.is_over {
            return;
        }
        state.is_over = true;
        state.culprit_is_known = fault.is_of_the_request();
        state.free.clear();
        drop(state);
        self.freed.notify_all();
        self.ended.notify_all();
        if fault.is_of_the_request() {
            (self.kill)();
        }
    }

    /// Ends it for good.
    pub(super) fn close(&self) {
        self.end(&LaneFault::Closed);
        (self.kill)();
    }

    /// Whether it was ended because nobody asked anything.
    pub(super) fn is_at_rest(&self) -> bool {
        self.state.lock().is_at_rest
    }

    /// Takes no more requests when nobody has asked anything for that long, and returns true; false if it is over before.
    pub(super) fn rest_when_idle(&self, idle: Duration) -> bool {
        let mut state = self.state.lock();
        loop {
            if state.is_over {
                return false;
            }
            let until = match state.free.len() == state.lanes {
                true => state.last_used + idle,
                false => Instant::now() + idle,
            };
            if until <= Instant::now() {
                (state.is_over, state.is_at_rest) = (true, true);
                state.free.clear();
                return true;
            }
            self.ended.wait_until(&mut state, until);
        }
    }

    /// Asks one thing that has one answer.
    pub(super) fn ask(self: &Arc<Self>, request: Request) -> Result<Frame, LaneFault> {
        let mut conversation = self.begin()?;
        conversation.send(Kind::Request, &Body::of(request))?;
        conversation.receive()
    }

    /// Waits for a lane.
    pub(super) fn begin(self: &Arc<Self>) -> Result<Conversation, LaneFault> {
        let mut state = self.state.lock();
        loop {
            if state.is_over {
                return Err(LaneFault::Closed);
            }
            if let Some(lane) = state.free.pop() {
                return Ok(Conversation {
                    connection: Arc::clone(self),
                    lane: Some(lane),
                    turn: Turn::Ours,
                });
            }
            self.freed.wait(&mut state);
        }
    }
}

impl Conversation {
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn send(&mut self, kind: Kind, body: &Body) -> Result<(), LaneFault> {
        let connection = &self.connection;
        let mut clock = connection.disks.clock();
        let lane = self.lane.as_mut().ok_or(LaneFault::Closed)?;
        self.turn = Turn::Theirs;
        let sent = lane.send(kind, body, &mut || clock.is_within(connection.patience));
        sent.inspect_err(|fault| connection.end(fault))
    }

    pub(super) fn receive(&mut self) -> Result<Frame, LaneFault> {
        let connection = &self.connection;
        let mut clock = connection.disks.clock();
        let lane = self.lane.as_mut().ok_or(LaneFault::Closed)?;
        let frame = converse(lane, &connection.disks, &mut || {
            clock.is_within(connection.patience)
        });
        let frame = frame.inspect_err(|fault| connection.end(fault))?;
        self.turn = match frame.kind {
            Kind::Part => Turn::OursAfterPart,
            _ => Turn::Ours,
        };
        Ok(frame)
    }
}

impl Drop for Conversation {
    /// Gives the lane back. One on which something is still to come is of no use.
    fn drop(&mut self) {
        let stopped = match self.turn {
            Turn::Ours => Ok(()),
            Turn::OursAfterPart => self
                .send(Kind::Stop, &Body::default())
                .and_then(|()| self.receive().map(drop)),
            Turn::Theirs => Err(LaneFault::Closed),
        };
        match (stopped, self.lane.take()) {
            (Ok(()), Some(lane)) => {
                let mut state = self.connection.state.lock();
                if !state.is_over {
                    state.free.push(lane);
                    state.last_used = Instant::now();
                }
                drop(state);
                self.connection.freed.notify_one();
            }
            _ => self.connection.end(&LaneFault::Closed),
        }
    }
}

/// Answers what the worker needs of disks, until it says something else.
pub(crate) fn converse<S: Read + Write>(
    lane: &mut Lane<S>,
    disks: &Disks,
    patience: Patience<'_>,
) -> Result<Frame, LaneFault> {
    loop {
        let frame = lane.receive(patience)?;
        if frame.kind != Kind::Block {
            return Ok(frame);
        }
        let (kind, body) = match disks.read(Fields::only(frame.body)?) {
            Ok(data) => {
                let body = Body {
                    bulk: data,
                    ..Body::default()
                };
                (Kind::BlockGiven, body)
            }
            Err(error) => (Kind::BlockFailed, Body::of(error)),
        };
        lane.send(kind, &body, patience)?;
    }
}

/// Time that a worker takes for a request, without what disks take meanwhile.
pub(super) struct Clock<'a> {
    disks: &'a Disks,
    began: Instant,
    read_before: Duration,
}

impl<'a> Clock<'a> {
    pub(super) fn new(disks: &'a Disks) -> Self {
        Self {
            disks,
            began: Instant::now(),
            read_before: disks.time_read(),
        }
    }

    /// Whether the worker has some of the time left. Disks may be slow, but not for ever.
    fn is_within(&mut self, patience: Duration) -> bool {
        let all = self.began.elapsed();
        let of_disks = self.disks.time_read().saturating_sub(self.read_before);
        all.saturating_sub(of_disks) < patience && all < patience * DISKS_SHARE
    }
}

/// How much longer than the worker its disks may take.
const DISKS_SHARE: u32 = 30;
