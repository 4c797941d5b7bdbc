//! Calls over one TCP connection (RFC 5531).

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::error::{ClientError, RpcRefusal};
use crate::wire::rpc::{self, Call};
use crate::wire::xdr::{Malformed, Reader, Writer, length_u32};

/// One connection to one server.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    next_xid: u32,
    credential: Option<Vec<u8>>,
}

/// Which procedure is called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) program: u32,
    pub(super) version: u32,
    pub(super) procedure: u32,
}

/// The results of a call: the record, and where in it they begin.
#[derive(Debug)]
pub(super) struct Results {
    record: Vec<u8>,
    start: usize,
}

impl Connection {
    pub(super) fn open(
        address: SocketAddr,
        credential: Option<Vec<u8>>,
        patience: Duration,
    ) -> Result<Self, ClientError> {
        let open = || {
            let stream = TcpStream::connect_timeout(&address, patience)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(patience))?;
            stream.set_write_timeout(Some(patience))?;
            Ok(stream)
        };
        let stream = open().map_err(|source| ClientError::Io {
            attempt: "connect to",
            source,
        })?;
        let next_xid = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), address);
        let next_xid = u32::try_from(next_xid >> 32).unwrap_or_default();
        Ok(Self {
            stream,
            next_xid,
            credential,
        })
    }

    /// Calls and waits for the answer.
    pub(super) fn call(
        &mut self,
        target: Target,
        arguments: impl FnOnce(&mut Writer<'_, Vec<u8>>),
    ) -> Result<Results, ClientError> {
        let xid = self.next_xid;
        self.next_xid = self.next_xid.wrapping_add(1);
        let mut record = vec![0; 4];
        let out = &mut Writer::new(&mut record);
        let (flavor, credential) = match &self.credential {
            Some(body) => (rpc::AUTH_SYS, body.as_slice()),
            None => (rpc::AUTH_NONE, &[][..]),
        };
        let head = Call {
            xid,
            rpc_version: rpc::RPC_VERSION,
            program: target.program,
            version: target.version,
            procedure: target.procedure,
            flavor,
            credential,
        };
        head.encode(out);
        arguments(out);
        let mark = length_u32(record.len() - 4) | rpc::LAST_FRAGMENT;
        if let Some(place) = record.first_chunk_mut() {
            *place = mark.to_be_bytes();
        }
        self.stream
            .write_all(&record)
            .map_err(|source| ClientError::Io {
                attempt: "send to",
                source,
            })?;
        loop {
            let record = self.receive().map_err(|source| ClientError::Io {
                attempt: "hear from",
                source,
            })?;
            // The answer to a call that we gave up on may come first.
            if record.first_chunk() == Some(&xid.to_be_bytes()) {
                let start = decode_head(&record)?;
                return Ok(Results { record, start });
            }
        }
    }

    fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut record = Vec::new();
        loop {
            let mut mark = [0; 4];
            self.stream.read_exact(&mut mark)?;
            let (length, last) = rpc::split_mark(mark);
            let start = record.len();
            if start + length > RECORD_MAX {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the record is too long",
                ));
            }
            record.resize(start + length, 0);
            self.stream
                .read_exact(record.get_mut(start..).unwrap_or_default())?;
            if last {
                return Ok(record);
            }
        }
    }
}

impl Results {
    pub(super) fn reader(&self) -> Reader<'_> {
        Reader::new(self.record.get(self.start..).unwrap_or_default())
    }
}

/// Reads the head of a reply and says where the results begin.
fn decode_head(record: &[u8]) -> Result<usize, ClientError> {
    let mut reader = Reader::new(record);
    let _xid = reader.u32()?;
    if reader.u32()? != rpc::MESSAGE_REPLY {
        return Err(ClientError::Malformed);
    }
    if reader.u32()? != 0 {
        return Err(ClientError::Rpc(decode_rejected(&mut reader)?));
    }
    let _flavor = reader.u32()?;
    let _verifier = reader.opaque(rpc::CREDENTIAL_MAX)?;
    let refusal = match reader.u32()? {
        rpc::ACCEPT_SUCCESS => return Ok(record.len() - reader.rest().len()),
        rpc::ACCEPT_PROGRAM_UNAVAILABLE => RpcRefusal::ProgramUnavailable,
        rpc::ACCEPT_PROGRAM_MISMATCH => RpcRefusal::ProgramMismatch(reader.u32()?, reader.u32()?),
        rpc::ACCEPT_PROCEDURE_UNAVAILABLE => RpcRefusal::ProcedureUnavailable,
        rpc::ACCEPT_GARBAGE_ARGUMENTS => RpcRefusal::GarbageArguments,
        _ => RpcRefusal::SystemError,
    };
    Err(ClientError::Rpc(refusal))
}

fn decode_rejected(reader: &mut Reader<'_>) -> Result<RpcRefusal, Malformed> {
    match reader.u32()? {
        rpc::REJECT_RPC_MISMATCH => Ok(RpcRefusal::RpcMismatch(reader.u32()?, reader.u32()?)),
        rpc::REJECT_AUTH_ERROR => Ok(RpcRefusal::Auth(reader.u32()?)),
        _ => Err(Malformed),
    }
}

/// `authsys_parms` (RFC 5531, appendix A).
pub(super) fn auth_sys(uid: u32, gid: u32, gids: &[u32]) -> Vec<u8> {
    let mut body = Vec::new();
    let out = &mut Writer::new(&mut body);
    out.u32(0);
    out.opaque(b"holdfast");
    out.u32(uid);
    out.u32(gid);
    out.u32(length_u32(gids.len()));
    for gid in gids {
        out.u32(*gid);
    }
    body
}

const RECORD_MAX: usize = 4 << 20;
