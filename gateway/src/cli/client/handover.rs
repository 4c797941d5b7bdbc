//! Giving the daemon an open file (SCM_RIGHTS).

use std::fs::File;
use std::io::{BufRead as _, BufReader, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use uuid::Uuid;

use crate::api::HAND_OVER;

/// A file that the daemon holds for as long as this lives.
#[derive(Debug)]
pub(crate) struct HandedOver {
    /// Its name in requests.
    pub(crate) id: Uuid,
    _connection: BufReader<UnixStream>,
}

impl HandedOver {
    pub(super) fn new(socket: &Path, file: &File) -> Result<Self> {
        let failed = || {
            format!(
                "cannot hand the file over to the daemon at {}",
                socket.display()
            )
        };
        let stream = UnixStream::connect(socket).with_context(failed)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [file.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        rustix::net::sendmsg(
            &stream,
            &[IoSlice::new(HAND_OVER)],
            &mut ancillary,
            SendFlags::empty(),
        )
        .with_context(failed)?;
        let mut connection = BufReader::new(stream);
        let mut line = String::new();
        connection.read_line(&mut line).with_context(failed)?;
        let id = Uuid::parse_str(line.trim()).with_context(failed)?;
        Ok(Self {
            id,
            _connection: connection,
        })
    }
}
