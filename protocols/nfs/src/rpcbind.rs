//! Registration with the rpcbind that owns port 111 of this machine (RFC 1833, 3.2: PMAPPROC_SET and UNSET).

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UdpSocket, UnixStream};

use crate::service::Ports;
use crate::wire::portmap::{self, Mapping};
use crate::wire::rpc::{self, Call};
use crate::wire::xdr::{Reader, Writer, length_u32};

/// Tells rpcbind where we listen, in place of what it knew of these programs.
pub(crate) async fn register(ports: Ports) -> io::Result<()> {
    for mapping in ports.mappings() {
        ask(portmap::PROCEDURE_UNSET, mapping).await?;
    }
    for mapping in ports.mappings() {
        if !ask(portmap::PROCEDURE_SET, mapping).await? {
            let (program, port) = (mapping.program, mapping.port);
            let text = format!("rpcbind refused port {port} for program {program}");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
    }
    Ok(())
}

/// Takes our ports back from rpcbind.
pub(crate) async fn unregister(ports: Ports) -> io::Result<()> {
    for mapping in ports.mappings() {
        ask(portmap::PROCEDURE_UNSET, mapping).await?;
    }
    Ok(())
}

async fn ask(procedure: u32, mapping: Mapping) -> io::Result<bool> {
    let mut call = vec![0; 4];
    let out = &mut Writer::new(&mut call);
    let head = Call {
        xid: XID,
        rpc_version: rpc::RPC_VERSION,
        program: portmap::PROGRAM,
        version: portmap::VERSION,
        procedure,
        flavor: rpc::AUTH_NONE,
        credential: &[],
    };
    head.encode(out);
    mapping.encode(out);
    let mark = length_u32(call.len() - 4) | rpc::LAST_FRAGMENT;
    if let Some(place) = call.first_chunk_mut() {
        *place = mark.to_be_bytes();
    }
    let exchange = async {
        if Path::new(SOCKET).exists() {
            exchange_stream(&call).await
        } else {
            exchange_datagram(call.get(4..).unwrap_or_default()).await
        }
    };
    let reply = tokio::time::timeout(PATIENCE, exchange).await??;
    decode_bool(&reply).ok_or_else(|| io::Error::other("rpcbind's answer cannot be read"))
}

async fn exchange_stream(call: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(SOCKET).await?;
    stream.write_all(call).await?;
    let mut mark = [0; 4];
    stream.read_exact(&mut mark).await?;
    let (length, _) = rpc::split_mark(mark);
    let mut reply = vec![0; length.min(REPLY_MAX)];
    stream.read_exact(&mut reply).await?;
    Ok(reply)
}

async fn exchange_datagram(call: &[u8]) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    socket.connect("127.0.0.1:111").await?;
    socket.send(call).await?;
    let mut reply = vec![0; REPLY_MAX];
    let length = socket.recv(&mut reply).await?;
    reply.truncate(length);
    Ok(reply)
}

fn decode_bool(reply: &[u8]) -> Option<bool> {
    let mut reader = Reader::new(reply);
    let head = [(); 6].map(|()| reader.u32().unwrap_or(u32::MAX));
    let accepted = head
        == [
            XID,
            rpc::MESSAGE_REPLY,
            0,
            rpc::AUTH_NONE,
            0,
            rpc::ACCEPT_SUCCESS,
        ];
    if !accepted {
        return None;
    }
    reader.bool().ok()
}

const SOCKET: &str = "/run/rpcbind.sock";
const XID: u32 = 0x4846_4e46;
const REPLY_MAX: usize = 1024;
const PATIENCE: Duration = Duration::from_secs(5);
