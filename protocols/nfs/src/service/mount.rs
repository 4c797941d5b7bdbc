//! The MOUNT program (RFC 1813, 5; RFC 1094, appendix A).

use std::collections::VecDeque;
use std::net::IpAddr;

use bytes::BytesMut;
use export::{ExportError, FileId, FileKind};
use parking_lot::Mutex;

use super::{Outcome, Service, accept, answer};
use crate::exports::{Export, Refusal, path_below};
use crate::handle::{Handle, Target};
use crate::wire::mount;
use crate::wire::rpc::{self, Call};
use crate::wire::xdr::{Malformed, Reader, Writer};

/// Who has mounted what, as far as clients tell: for `showmount -a`, nothing depends on it.
#[derive(Debug, Default)]
pub(super) struct MountList {
    mounts: Mutex<VecDeque<(IpAddr, String)>>,
}

impl MountList {
    fn add(&self, peer: IpAddr, path: &str) {
        let mut mounts = self.mounts.lock();
        if mounts
            .iter()
            .any(|(who, what)| *who == peer && what == path)
        {
            return;
        }
        if mounts.len() >= MOUNTS_MAX {
            mounts.pop_front();
        }
        mounts.push_back((peer, path.to_owned()));
    }

    fn remove(&self, peer: IpAddr, path: Option<&str>) {
        self.mounts
            .lock()
            .retain(|(who, what)| *who != peer || path.is_some_and(|path| path != what));
    }
}

impl Service {
    pub(super) fn mount(
        &self,
        call: &Call<'_>,
        peer: IpAddr,
        mut arguments: Reader<'_>,
        out: &mut BytesMut,
    ) -> Outcome {
        if !matches!(call.version, mount::VERSION | mount::VERSION_OLD) {
            let spoken = (mount::VERSION_OLD, mount::VERSION);
            return answer(out, |out| {
                rpc::encode_version_mismatch(out, call.xid, spoken)
            });
        }
        match call.procedure {
            mount::PROCEDURE_NULL => accept(out, call.xid, rpc::ACCEPT_SUCCESS),
            mount::PROCEDURE_MNT => {
                let Ok(path) = decode_path(&mut arguments) else {
                    return accept(out, call.xid, rpc::ACCEPT_GARBAGE_ARGUMENTS);
                };
                let result = self.mount_path(&path, peer);
                success(out, call.xid, |out| {
                    encode_mounted(out, call.version, result)
                })
            }
            mount::PROCEDURE_DUMP => success(out, call.xid, |out| self.encode_mounts(out)),
            mount::PROCEDURE_UMNT => match decode_path(&mut arguments) {
                Ok(path) => {
                    self.mounts.remove(peer, Some(&path));
                    accept(out, call.xid, rpc::ACCEPT_SUCCESS)
                }
                Err(Malformed) => accept(out, call.xid, rpc::ACCEPT_GARBAGE_ARGUMENTS),
            },
            mount::PROCEDURE_UMNTALL => {
                self.mounts.remove(peer, None);
                accept(out, call.xid, rpc::ACCEPT_SUCCESS)
            }
            mount::PROCEDURE_EXPORT => success(out, call.xid, |out| self.encode_exports(out, peer)),
            _ => accept(out, call.xid, rpc::ACCEPT_PROCEDURE_UNAVAILABLE),
        }
    }

    /// Finds the folder to mount: an export, or a folder inside one. QEMU asks for "" where it means "/".
    fn mount_path(&self, path: &str, peer: IpAddr) -> Result<Handle, u32> {
        let export = self
            .exports
            .resolve(path, peer)
            .map_err(|refusal| match refusal {
                Refusal::Unknown => mount::NO_ENTRY,
                Refusal::Denied => mount::ACCESS,
            })?;
        if !export.admits(peer) {
            tracing::info!(%peer, path, "a mount was refused by the address list");
            return Err(mount::ACCESS);
        }
        let rest = path_below(path, &export.path).ok_or(mount::NO_ENTRY)?;
        let file = walk(&export, rest)?;
        self.metrics.mounts.add(1);
        self.mounts.add(peer, path);
        tracing::info!(%peer, path, export = export.id, "mounted");
        Ok(self.key.seal(Target {
            export: export.id,
            file,
        }))
    }

    /// `mountlist` (RFC 1813, 5.2.2).
    fn encode_mounts(&self, out: &mut Writer<'_, BytesMut>) {
        for (peer, path) in self.mounts.mounts.lock().iter() {
            out.bool(true);
            out.opaque(peer.to_string().as_bytes());
            out.opaque(path.as_bytes());
        }
        out.bool(false);
    }

    /// `exports` (RFC 1813, 5.2.5).
    fn encode_exports(&self, out: &mut Writer<'_, BytesMut>, peer: IpAddr) {
        for export in self
            .exports
            .list(peer)
            .iter()
            .filter(|export| export.admits(peer))
        {
            out.bool(true);
            out.opaque(export.path.as_bytes());
            for group in export.options.addresses.texts() {
                out.bool(true);
                out.opaque(group.as_bytes());
            }
            out.bool(false);
        }
        out.bool(false);
    }
}

fn walk(export: &Export, path: &str) -> Result<FileId, u32> {
    let tree = &export.tree;
    let mut file = tree.root();
    for name in path.split('/').filter(|name| !matches!(*name, "" | ".")) {
        if name == ".." {
            return Err(mount::INVALID);
        }
        file = tree
            .lookup(file, name.as_bytes())
            .map_err(|error| mount_status(&error))?;
    }
    let attributes = tree
        .attributes(file)
        .map_err(|error| mount_status(&error))?;
    if attributes.kind == FileKind::Directory {
        Ok(file)
    } else {
        Err(mount::NOT_DIRECTORY)
    }
}

fn mount_status(error: &ExportError) -> u32 {
    match error {
        ExportError::NotFound | ExportError::Stale => mount::NO_ENTRY,
        ExportError::NotDirectory => mount::NOT_DIRECTORY,
        ExportError::BadName | ExportError::NameTooLong | ExportError::Invalid => mount::INVALID,
        _ => mount::IO,
    }
}

/// `dirpath`, with one slash before it and none behind it.
fn decode_path(arguments: &mut Reader<'_>) -> Result<String, Malformed> {
    let path = std::str::from_utf8(arguments.opaque(mount::PATH_MAX)?).map_err(|_| Malformed)?;
    Ok(format!("/{}", path.trim_matches('/')))
}

/// `mountres3` (RFC 1813, 5.2.1) or `fhstatus` (RFC 1094, A.5.2).
fn encode_mounted(out: &mut Writer<'_, BytesMut>, version: u32, result: Result<Handle, u32>) {
    match result {
        Err(why) => out.u32(why),
        Ok(handle) if version == mount::VERSION_OLD => {
            out.u32(mount::OK);
            out.fixed(&handle);
        }
        Ok(handle) => {
            out.u32(mount::OK);
            out.opaque(&handle);
            out.u32(1);
            out.u32(rpc::AUTH_SYS);
        }
    }
}

fn success(out: &mut BytesMut, xid: u32, write: impl FnOnce(&mut Writer<'_, BytesMut>)) -> Outcome {
    answer(out, |out| {
        rpc::encode_accepted(out, xid, rpc::ACCEPT_SUCCESS);
        write(out);
    })
}

const MOUNTS_MAX: usize = 1024;
