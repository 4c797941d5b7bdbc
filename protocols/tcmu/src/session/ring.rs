//! The ring: entries are taken in order and answered in any.
//!
//! An answer takes the place of the oldest entry that has none, whichever command stood there: so the kernel can have
//! room back as soon as anything is done. What an entry asked was therefore read whole before it is overwritten, and a
//! process that dies leaves a ring that another cannot go on with: it has to be reset.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::RingError;
use crate::wire::{Answer, Entry, Mailbox, Place, RawCommand, RawManagement, SharedMemory};

/// A ring and how far this side has come in it.
#[derive(Debug)]
pub(super) struct Ring {
    mailbox: Mailbox,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What the kernel has written before this place was taken.
    taken: u32,
    /// What was taken and is not given back yet, oldest first.
    slots: VecDeque<Slot>,
    under_way: HashSet<u16>,
}

#[derive(Debug, Clone, Copy)]
enum Slot {
    /// Room for an answer.
    Answer(Place),
    /// Nothing is answered here.
    Skip(Place),
}

/// What the kernel asks.
#[derive(Debug)]
pub(super) enum Request {
    Command(RawCommand),
    Management(RawManagement),
}

impl Ring {
    /// Begins where answers have come to.
    pub(super) fn open(memory: Arc<SharedMemory>) -> Result<Self, RingError> {
        let mailbox = Mailbox::open(memory)?;
        let taken = mailbox.tail()?;
        Ok(Self {
            mailbox,
            state: Mutex::new(State {
                taken,
                slots: VecDeque::new(),
                under_way: HashSet::new(),
            }),
        })
    }

    pub(super) fn memory(&self) -> &Arc<SharedMemory> {
        &self.mailbox.memory
    }

    /// Takes the next request; `None` if the kernel has written no more.
    pub(super) fn next(&self) -> Result<Option<Request>, RingError> {
        let mailbox = &self.mailbox;
        let head = mailbox.head()?;
        let mut state = self.state.lock();
        let request = loop {
            let at = state.taken;
            if at == head {
                break None;
            }
            let room = if head > at {
                head - at
            } else {
                mailbox.ring_bytes() - at
            };
            let (entry, place) = Entry::read(mailbox, at, room)?;
            let request = match entry {
                Entry::Pad => None,
                Entry::Unknown => {
                    place.disclaim(mailbox);
                    None
                }
                Entry::Command(command) => {
                    if !state.under_way.insert(command.id) {
                        return Err(RingError::Twice(command.id));
                    }
                    Some(Request::Command(command))
                }
                Entry::Management(management) => Some(Request::Management(management)),
            };
            state.slots.push_back(match request {
                Some(Request::Command(_)) => Slot::Answer(place),
                _ => Slot::Skip(place),
            });
            state.taken = mailbox.after(at, place.length);
            if request.is_some() {
                break request;
            }
        };
        state.skip(mailbox);
        Ok(request)
    }

    /// Answers a command.
    pub(super) fn answer(&self, answer: &Answer<'_>) -> Result<(), RingError> {
        let mailbox = &self.mailbox;
        let mut state = self.state.lock();
        if !state.under_way.remove(&answer.id) {
            return Err(RingError::NotUnderWay(answer.id));
        }
        if let Some(Slot::Answer(place)) = state.slots.pop_front() {
            place.answer(mailbox, answer);
            mailbox.set_tail(mailbox.after(place.at, place.length));
        }
        state.skip(mailbox);
        Ok(())
    }
}

impl State {
    /// Gives back what needs no answer, so that the oldest slot is always room for one.
    fn skip(&mut self, mailbox: &Mailbox) {
        while let Some(&Slot::Skip(place)) = self.slots.front() {
            self.slots.pop_front();
            mailbox.set_tail(mailbox.after(place.at, place.length));
        }
    }
}
