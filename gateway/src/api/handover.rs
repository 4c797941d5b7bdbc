//! Open files that come over the control socket, so that the daemon reads or writes them itself.
//!
//! A connection whose first message carries a descriptor is no HTTP: the daemon answers with the descriptor's name and
//! keeps it until the connection closes. Requests on other connections then refer to that name.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use parking_lot::Mutex;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest, ReadBuf};
use tokio::net::UnixStream;
use uuid::Uuid;

/// What a client sends with the descriptor.
pub(crate) const HAND_OVER: &[u8] = b"HOLDFAST-HAND-OVER\n";

/// What a new connection turned out to be.
pub(super) enum Arrival {
    /// HTTP; the first bytes were read already.
    Request(Prefixed),
    /// A descriptor.
    Descriptor(UnixStream, OwnedFd),
}

/// Descriptors that clients keep here.
#[derive(Debug, Default)]
pub struct Descriptors {
    held: Mutex<HashMap<Uuid, Arc<File>>>,
}

/// A descriptor that is kept until this is dropped.
pub(super) struct Held<'a> {
    id: Uuid,
    all: &'a Descriptors,
}

impl Descriptors {
    /// The file of that name.
    pub fn find(&self, id: Uuid) -> Option<Arc<File>> {
        self.held.lock().get(&id).cloned()
    }

    pub(super) fn hold(&self, descriptor: OwnedFd) -> Held<'_> {
        let id = Uuid::new_v4();
        self.held
            .lock()
            .insert(id, Arc::new(File::from(descriptor)));
        Held { id, all: self }
    }
}

impl Held<'_> {
    pub(super) fn id(&self) -> Uuid {
        self.id
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.all.held.lock().remove(&self.id);
    }
}

/// Reads the first message of a connection.
pub(super) async fn receive(stream: UnixStream) -> io::Result<Arrival> {
    let mut start = [0; 4096];
    let (length, descriptor) = stream
        .async_io(Interest::READABLE, || receive_message(&stream, &mut start))
        .await?;
    let bytes = start.get(..length).unwrap_or_default();
    match descriptor {
        Some(descriptor) if bytes == HAND_OVER => Ok(Arrival::Descriptor(stream, descriptor)),
        Some(_) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a descriptor came without the word for a hand-over",
        )),
        None => Ok(Arrival::Request(Prefixed {
            prefix: BytesMut::from(bytes),
            stream,
        })),
    }
}

/// Tells the client the descriptor's name, and returns when the connection closes.
pub(super) async fn answer_and_wait(mut stream: UnixStream, id: Uuid) -> io::Result<()> {
    stream.write_all(format!("{id}\n").as_bytes()).await?;
    let mut ignored = [0; 64];
    while stream.read(&mut ignored).await? > 0 {}
    Ok(())
}

fn receive_message(stream: &UnixStream, start: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::net::recvmsg(
        stream,
        &mut [IoSliceMut::new(start)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptor = None;
    for control in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = control {
            // Further ones are closed by being dropped.
            for one in descriptors {
                descriptor.get_or_insert(one);
            }
        }
    }
    Ok((message.bytes, descriptor))
}

/// A connection whose first bytes were read already.
pub(super) struct Prefixed {
    prefix: BytesMut,
    stream: UnixStream,
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let length = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(self.prefix.get(..length).unwrap_or_default());
        self.prefix.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
