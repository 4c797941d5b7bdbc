//! Streams: bytes in order, kept under a name, cut where their content says.
//!
//! `docs/formats/image.md` specifies the map of a stream beside that of a disk.

mod node;
mod reader;
mod writer;

pub(crate) use node::StreamNode;
pub use node::fuzz_stream_node;
pub(crate) use node::is_node;
pub(crate) use reader::StreamPart;
pub use reader::StreamReader;
pub use writer::StreamWriter;
