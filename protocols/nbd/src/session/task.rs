//! One request that needs the export, wherever it runs.

use bytes::Bytes;
use export::{BlockExport, Durability, ExportError, Segments, ZeroMode};

use super::Context;
use super::reply::ContextExtents;
use crate::wire::{Command, CommandFlags, PAYLOAD_MAX, Request};

/// A request with its payload.
#[derive(Debug, Clone)]
pub(super) struct Task {
    pub(super) request: Request,
    pub(super) payload: Bytes,
    /// Bytes of memory that it holds or asks for.
    pub(super) cost_bytes: u64,
}

/// A task that has ended.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) task: Task,
    pub(super) outcome: Result<Answer, ExportError>,
}

/// What an export answered.
#[derive(Debug)]
pub(super) enum Answer {
    Done,
    Data(Segments),
    Status(Vec<ContextExtents>),
}

impl Task {
    /// Does it if memory alone can; `None` says that nothing was done.
    pub(super) fn try_run(&self, export: &dyn BlockExport) -> Option<Result<Answer, ExportError>> {
        let Request {
            command,
            offset,
            flags,
            ..
        } = self.request;
        match command {
            Command::Read => export
                .read_cached(offset, self.length_u32())
                .map(|answer| answer.map(Answer::Data)),
            Command::Write if !flags.has(CommandFlags::FUA) => {
                let answer = export.try_write(offset, std::slice::from_ref(&self.payload));
                answer.map(|answer| answer.map(|()| Answer::Done))
            }
            _ => None,
        }
    }

    /// Does it; may wait for a disk.
    pub(super) fn run(
        &self,
        export: &dyn BlockExport,
        contexts: &[(u32, Context)],
    ) -> Result<Answer, ExportError> {
        let Request {
            command,
            offset,
            length,
            flags,
            ..
        } = self.request;
        let durability = if flags.has(CommandFlags::FUA) {
            Durability::Stable
        } else {
            Durability::Unstable
        };
        match command {
            Command::Read => return export.read(offset, self.length_u32()).map(Answer::Data),
            Command::BlockStatus => return self.block_status(export, contexts).map(Answer::Status),
            Command::Write => {
                export.write(offset, std::slice::from_ref(&self.payload), durability)?
            }
            Command::Flush => export.flush()?,
            Command::Trim => export.discard(offset, length, durability)?,
            Command::WriteZeroes => {
                let keep = flags.has(CommandFlags::NO_HOLE);
                let mode = if keep {
                    ZeroMode::KeepAllocated
                } else {
                    ZeroMode::Deallocate
                };
                export.write_zeroes(offset, length, mode, durability)?;
            }
            Command::Cache => export.prefetch(offset, length),
            Command::Disc | Command::Unknown(_) => return Err(ExportError::Invalid),
        }
        Ok(Answer::Done)
    }

    fn block_status(
        &self,
        export: &dyn BlockExport,
        contexts: &[(u32, Context)],
    ) -> Result<Vec<ContextExtents>, ExportError> {
        let Request {
            offset,
            length,
            flags,
            ..
        } = self.request;
        let limit = if flags.has(CommandFlags::REQ_ONE) {
            1
        } else {
            EXTENTS_MAX
        };
        let allocation = contexts
            .iter()
            .any(|(_, context)| !matches!(context, Context::DirtyBitmap(_)));
        let extents = if allocation {
            export.extents(offset, length, limit)?
        } else {
            Vec::new()
        };
        let mut answers = Vec::with_capacity(contexts.len());
        for (number, context) in contexts {
            let merged = match context {
                Context::BaseAllocation | Context::AllocationDepth => merge(
                    extents
                        .iter()
                        .map(|extent| (extent.length, context.flags(extent))),
                ),
                Context::DirtyBitmap(map) => {
                    let changes = export.changes(map, offset, length, limit)?;
                    merge(
                        changes
                            .into_iter()
                            .map(|(length, changed)| (length, u64::from(changed))),
                    )
                }
            };
            answers.push((*number, merged));
        }
        Ok(answers)
    }

    fn length_u32(&self) -> u32 {
        u32::try_from(self.request.length).expect("the length of a read was checked")
    }
}

/// Bytes of memory that a request holds or asks for, on a connection with so many contexts.
pub(super) fn cost(request: &Request, contexts: usize) -> u64 {
    match request.command {
        Command::Read | Command::Write => request.length,
        Command::BlockStatus if !request.flags.has(CommandFlags::REQ_ONE) => {
            let bytes = contexts.saturating_mul(EXTENTS_MAX * EXTENT_BYTES);
            u64::try_from(bytes).map_or(COST_MAX, |bytes| bytes.min(COST_MAX))
        }
        _ => 0,
    }
}

/// Joins neighbours with equal flags.
fn merge(extents: impl Iterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (length, flags) in extents {
        match merged.last_mut() {
            Some(last) if last.1 == flags => last.0 += length,
            _ => merged.push((length, flags)),
        }
    }
    merged
}

/// Most extents of one reply and context; a client asks again for the rest.
const EXTENTS_MAX: usize = 8192;
/// Bytes of an extent in a reply, at most.
const EXTENT_BYTES: usize = 16;
/// No request asks for more than the longest payload, which a server's memory always has.
const COST_MAX: u64 = PAYLOAD_MAX as u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_for_extents_is_asked_for_before_they_are_looked_up() {
        let request = |flags| Request {
            flags: CommandFlags(flags),
            command: Command::BlockStatus,
            cookie: 1,
            offset: 0,
            length: 1 << 40,
        };
        assert_eq!(cost(&request(0), 2), 2 * 8192 * 16);
        assert_eq!(cost(&request(0), usize::MAX), COST_MAX);
        assert_eq!(cost(&request(CommandFlags::REQ_ONE), 2), 0);
    }
}
