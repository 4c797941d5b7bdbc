//! Ranges that are in use, as they come from a worker.

use std::ops::Range;
use std::sync::Arc;

use export::ExportError;

use crate::reader::Refusal;
use crate::wire::{Body, Fields, Kind, Malformed, Ranges};

use super::connection::Conversation;
use super::verdicts::Subject;
use super::{Inner, OUT_OF_TURN, Outcome};

/// Ranges that come in parts, each when the one before is used up. An error ends them.
pub(super) struct WorkerRanges {
    worker: Arc<Inner>,
    subject: Subject,
    /// None after the last part.
    conversation: Option<Conversation>,
    is_begun: bool,
    part: std::vec::IntoIter<Range<u64>>,
    reached: u64,
    length_bytes: u64,
}

impl WorkerRanges {
    pub(super) fn new(
        worker: Arc<Inner>,
        subject: Subject,
        conversation: Conversation,
        length_bytes: u64,
    ) -> Self {
        Self {
            worker,
            subject,
            conversation: Some(conversation),
            is_begun: false,
            part: Vec::new().into_iter(),
            reached: 0,
            length_bytes,
        }
    }

    fn take_part(&mut self) -> Result<(), Outcome> {
        let Some(conversation) = &mut self.conversation else {
            return Ok(());
        };
        if self.is_begun {
            conversation.send(Kind::Next, &Body::default())?;
        }
        self.is_begun = true;
        let frame = conversation.receive()?;
        let part: Ranges = match frame.kind {
            Kind::Part | Kind::Done => Fields::only(frame.body)?,
            Kind::Failed => return Err(Outcome::Refused(Fields::only(frame.body)?)),
            _ => return Err(OUT_OF_TURN.into()),
        };
        for range in &part.0 {
            if range.start < self.reached || range.end > self.length_bytes {
                return Err(Malformed("ranges that are not in order or not in the volume").into());
            }
            self.reached = range.end;
        }
        if frame.kind == Kind::Part && part.0.is_empty() {
            return Err(Malformed("a part with nothing in it").into());
        }
        if frame.kind == Kind::Done {
            self.conversation = None;
        }
        self.part = part.0.into_iter();
        Ok(())
    }

    fn fail(&mut self, outcome: Outcome) -> Refusal {
        let conversation = self.conversation.take();
        let (conversation, fault) = match (conversation, outcome) {
            (_, Outcome::Refused(refusal)) => return refusal,
            (None, Outcome::Fault(_)) => return ExportError::ShuttingDown.into(),
            (Some(conversation), Outcome::Fault(fault)) => (conversation, fault),
        };
        let connection = conversation.connection();
        let why = self.worker.condemn(connection, self.subject, &fault);
        let detail = format!("not told to the end: {why}").into();
        ExportError::Corrupt { detail }.into()
    }
}

impl Iterator for WorkerRanges {
    type Item = Result<Range<u64>, Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.part.len() == 0
            && let Err(outcome) = self.take_part()
        {
            return Some(Err(self.fail(outcome)));
        }
        self.part.next().map(Ok)
    }
}
