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
    register_at(Path::new(SOCKET), ports).await
}

/// Takes our ports back from rpcbind.
pub(crate) async fn unregister(ports: Ports) -> io::Result<()> {
    unregister_at(Path::new(SOCKET), ports).await
}

async fn register_at(socket: &Path, ports: Ports) -> io::Result<()> {
    unregister_at(socket, ports).await?;
    for mapping in ports.mappings() {
        if !ask(socket, portmap::PROCEDURE_SET, mapping).await? {
            let (program, port) = (mapping.program, mapping.port);
            let text = format!("rpcbind refused port {port} for program {program}");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
    }
    Ok(())
}

async fn unregister_at(socket: &Path, ports: Ports) -> io::Result<()> {
    for mapping in ports.mappings() {
        // It says no where nothing was registered.
        ask(socket, portmap::PROCEDURE_UNSET, mapping).await?;
    }
    Ok(())
}

async fn ask(socket: &Path, procedure: u32, mapping: Mapping) -> io::Result<bool> {
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
        if socket.exists() {
            exchange_stream(socket, &call).await
        } else {
            exchange_datagram(call.get(4..).unwrap_or_default()).await
        }
    };
    let reply = tokio::time::timeout(PATIENCE, exchange).await??;
    decode_bool(&reply).ok_or_else(|| io::Error::other("rpcbind's answer cannot be read"))
}

async fn exchange_stream(socket: &Path, call: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket).await?;
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

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    /// Answers every call as `accept` says and gives back procedure, program and port of each.
    async fn stand_in(
        listener: UnixListener,
        calls: usize,
        accept: impl Fn(u32) -> bool,
    ) -> Vec<(u32, u32, u32)> {
        let mut seen = Vec::new();
        for _ in 0..calls {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut mark = [0; 4];
            stream.read_exact(&mut mark).await.unwrap();
            let mut call = vec![0; rpc::split_mark(mark).0];
            stream.read_exact(&mut call).await.unwrap();
            let mut reader = Reader::new(&call);
            let head = Call::decode(&mut reader).unwrap();
            let mapping = Mapping::decode(&mut reader).unwrap();
            assert_eq!(
                (head.program, head.version),
                (portmap::PROGRAM, portmap::VERSION)
            );
            seen.push((head.procedure, mapping.program, mapping.port));
            let mut reply = vec![0; 4];
            let out = &mut Writer::new(&mut reply);
            rpc::encode_accepted(out, head.xid, rpc::ACCEPT_SUCCESS);
            out.bool(accept(head.procedure));
            let mark = length_u32(reply.len() - 4) | rpc::LAST_FRAGMENT;
            reply[..4].copy_from_slice(&mark.to_be_bytes());
            stream.write_all(&reply).await.unwrap();
        }
        seen
    }

    const PORTS: Ports = Ports {
        nfs: 2049,
        mount: 4000,
        portmap: 0,
    };

    #[tokio::test]
    async fn old_ports_are_unset_before_ours_are_set() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let answers = tokio::spawn(stand_in(listener, 6, |procedure| procedure == 1));
        register_at(&path, PORTS).await.unwrap();
        let wanted = [(100_005, 4000), (100_005, 4000), (100_003, 2049)];
        let calls =
            [2, 1].map(|procedure| wanted.map(|(program, port)| (procedure, program, port)));
        assert_eq!(answers.await.unwrap(), calls.concat());
    }

    #[tokio::test]
    async fn a_refused_port_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let answers = tokio::spawn(stand_in(listener, 4, |_| false));
        let error = register_at(&path, PORTS).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "rpcbind refused port 4000 for program 100005"
        );
        answers.await.unwrap();
    }
}
