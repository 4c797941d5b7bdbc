//! The memory that is shared with the kernel, and what lies where in it.

mod abi;
mod entry;
mod mailbox;
mod memory;

pub(crate) use entry::{Answer, Entry, Place, RawCommand, RawManagement, Span, Spans};
pub(crate) use mailbox::Mailbox;
pub use memory::SharedMemory;
