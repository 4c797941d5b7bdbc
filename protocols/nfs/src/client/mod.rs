//! A small blocking client of NFS version 3 over TCP, for demonstrations and tests. One call at a time.

mod answers;
mod calls;
mod error;
mod rpc;

use std::net::SocketAddr;
use std::time::Duration;

use export::Attributes;

pub use self::answers::{
    Changed, ClientEntry, FilesystemInfo, FilesystemSpace, PathLimits, ReadAnswer, WriteAnswer,
};
pub use self::error::{ClientError, RpcRefusal};
use self::rpc::{Connection, Target, auth_sys};
use crate::wire::portmap::Mapping;
use crate::wire::xdr::Writer;
use crate::wire::{mount, nfs3, portmap};

/// A mounted export.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    root: FileHandle,
}

/// What a server calls a file. Opaque.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileHandle(pub(crate) Vec<u8>);

/// As whom, and for how long, a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User number; `None` asks as nobody (AUTH_NONE).
    pub uid: Option<u32>,
    /// Group number.
    pub gid: u32,
    /// Up to sixteen further groups.
    pub gids: Vec<u32>,
    /// How long to wait for the server.
    pub patience: Duration,
}

/// An object that a call found or made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its handle.
    pub handle: FileHandle,
    /// Its attributes, if the server sent them.
    pub attributes: Option<Attributes>,
}

impl Client {
    /// Mounts `path` of the server whose port mapper listens at `portmap`.
    ///
    /// # Errors
    /// If the server cannot be reached or refuses.
    pub fn mount_by_portmap(
        portmap: SocketAddr,
        path: &str,
        identity: &Identity,
    ) -> Result<Self, ClientError> {
        let port = |program, version| {
            port_of(portmap, program, version).map(|port| SocketAddr::new(portmap.ip(), port))
        };
        let mount = port(mount::PROGRAM, mount::VERSION)?;
        let nfs = port(nfs3::PROGRAM, nfs3::VERSION)?;
        Self::mount(nfs, mount, path, identity)
    }

    /// Mounts `path` of the server whose NFS and MOUNT programs listen at these addresses.
    ///
    /// # Errors
    /// If the server cannot be reached or refuses.
    pub fn mount(
        nfs: SocketAddr,
        mount: SocketAddr,
        path: &str,
        identity: &Identity,
    ) -> Result<Self, ClientError> {
        let root = mount_path(mount, path, identity)?;
        Self::attach(nfs, root, identity)
    }

    /// Goes on with a handle from an earlier mount.
    ///
    /// # Errors
    /// If the server cannot be reached.
    pub fn attach(
        nfs: SocketAddr,
        root: FileHandle,
        identity: &Identity,
    ) -> Result<Self, ClientError> {
        let connection = Connection::open(nfs, identity.credential(), identity.patience)?;
        Ok(Self { connection, root })
    }

    /// The mounted folder.
    pub fn root(&self) -> FileHandle {
        self.root.clone()
    }
}

impl Identity {
    /// Root, with half a minute of patience.
    pub fn root() -> Self {
        Self::user(0, 0)
    }

    /// One user of one group.
    pub fn user(uid: u32, gid: u32) -> Self {
        Self {
            uid: Some(uid),
            gid,
            gids: Vec::new(),
            patience: Duration::from_secs(30),
        }
    }

    fn credential(&self) -> Option<Vec<u8>> {
        self.uid.map(|uid| auth_sys(uid, self.gid, &self.gids))
    }
}

impl FileHandle {
    /// A handle from bytes that a server gave out.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// The handle's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Asks a port mapper for the TCP port of a program (RFC 1833, 3.2: PMAPPROC_GETPORT).
///
/// # Errors
/// If it cannot be reached or does not know.
pub fn port_of(portmap: SocketAddr, program: u32, version: u32) -> Result<u16, ClientError> {
    let mut connection = Connection::open(portmap, None, Identity::root().patience)?;
    let wanted = Mapping {
        program,
        version,
        protocol: portmap::PROTOCOL_TCP,
        port: 0,
    };
    let target = Target {
        program: portmap::PROGRAM,
        version: portmap::VERSION,
        procedure: portmap::PROCEDURE_GETPORT,
    };
    let results = connection.call(target, |out| wanted.encode(out))?;
    match u16::try_from(results.reader().u32()?) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(ClientError::NotRegistered { program, version }),
    }
}

/// The paths that a server exports to us (RFC 1813, 5.2.5: MOUNTPROC3_EXPORT).
///
/// # Errors
/// If the server cannot be reached.
pub fn exported_paths(mount: SocketAddr) -> Result<Vec<String>, ClientError> {
    let mut connection = Connection::open(mount, None, Identity::root().patience)?;
    let results = connection.call(mount_target(mount::PROCEDURE_EXPORT), |_| {})?;
    let mut reader = results.reader();
    let mut paths = Vec::new();
    while reader.bool()? {
        let path = reader.opaque(mount::PATH_MAX)?;
        paths.push(String::from_utf8_lossy(path).into_owned());
        while reader.bool()? {
            reader.opaque(nfs3::NAME_MAX)?;
        }
    }
    Ok(paths)
}

/// Asks for the handle of a path (RFC 1813, 5.2.1: MOUNTPROC3_MNT).
///
/// # Errors
/// If the server cannot be reached or refuses.
pub fn mount_path(
    mount: SocketAddr,
    path: &str,
    identity: &Identity,
) -> Result<FileHandle, ClientError> {
    let mut connection = Connection::open(mount, identity.credential(), identity.patience)?;
    let target = mount_target(mount::PROCEDURE_MNT);
    let results = connection.call(target, |out: &mut Writer<'_, _>| {
        out.opaque(path.as_bytes())
    })?;
    let mut reader = results.reader();
    match reader.u32()? {
        mount::OK => Ok(FileHandle(reader.opaque(nfs3::HANDLE_MAX)?.to_vec())),
        status => Err(ClientError::Mount { status }),
    }
}

fn mount_target(procedure: u32) -> Target {
    Target {
        program: mount::PROGRAM,
        version: mount::VERSION,
        procedure,
    }
}
