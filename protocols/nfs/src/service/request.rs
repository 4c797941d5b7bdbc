//! One NFS call on its way through the service: its arguments, what its handles name, and who asks.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use export::{Attributes, Caller, ExportError, FileExport, FileId, Segments};

use super::Service;
use crate::access::{self, Credential, Rights};
use crate::error::Status;
use crate::exports::{Export, Refusal};
use crate::handle::{Handle, Target};
use crate::wire::nfs3::{self, Place, Procedure};
use crate::wire::xdr::{Malformed, Reader};

/// A call that is being answered.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) service: &'a Service,
    pub(super) peer: IpAddr,
    credential: Credential<'a>,
    pub(super) record: &'a Bytes,
    pub(super) arguments: Reader<'a>,
}

/// How far a call has come.
pub(super) enum Step {
    /// The results stand in the buffer; this payload follows them.
    Done(Segments),
    /// The rest may wait for a disk.
    Later { cost: usize, work: Work },
}

/// The part of a procedure that may wait for a disk: it writes the results, or says why not.
pub(super) type Work =
    Box<dyn FnOnce(&Service, &mut BytesMut) -> Result<Segments, Status> + Send + 'static>;

/// Why a call was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its arguments cannot be read.
    Garbage,
    /// The procedure refuses.
    Refused(Status),
}

/// An object that a handle names, and who asks for it.
#[derive(Debug, Clone)]
pub(super) struct Located {
    pub(super) export: Arc<Export>,
    pub(super) file: FileId,
    pub(super) caller: Caller,
}

impl<'a> Request<'a> {
    pub(super) fn new(
        service: &'a Service,
        peer: IpAddr,
        credential: Credential<'a>,
        record: &'a Bytes,
        arguments: Reader<'a>,
    ) -> Self {
        Self {
            service,
            peer,
            credential,
            record,
            arguments,
        }
    }

    /// Does a procedure, or as much of it as does not wait.
    pub(super) fn run(&mut self, procedure: Procedure, out: &mut BytesMut) -> Result<Step, Fault> {
        match procedure {
            Procedure::Null => Ok(Step::Done(Segments::new())),
            Procedure::Getattr => self.getattr(out),
            Procedure::Setattr => self.setattr(),
            Procedure::Lookup => self.lookup(out),
            Procedure::Access => self.access(out),
            Procedure::Readlink => self.readlink(out),
            Procedure::Read => self.read(out),
            Procedure::Write => self.write(out),
            Procedure::Create => self.create(),
            Procedure::Mkdir => self.mkdir(),
            Procedure::Symlink => self.symlink(),
            Procedure::Mknod => self.mknod(),
            Procedure::Remove => self.remove(),
            Procedure::Rmdir => self.rmdir(),
            Procedure::Rename => self.rename(),
            Procedure::Link => self.link(),
            Procedure::Readdir => self.readdir(out),
            Procedure::Readdirplus => self.readdirplus(out),
            Procedure::Fsstat => self.fsstat(out),
            Procedure::Fsinfo => self.fsinfo(out),
            Procedure::Pathconf => self.pathconf(out),
            Procedure::Commit => self.commit(),
        }
    }

    /// Reads a file handle from the arguments. What it names is found later, because a call with a dead handle and
    /// broken arguments is broken.
    pub(super) fn handle(&mut self) -> Result<&'a [u8], Malformed> {
        self.arguments.opaque(nfs3::HANDLE_MAX)
    }

    /// Finds what a handle names and checks, as on every call, that the peer may use that export.
    pub(super) fn locate(&self, handle: &[u8]) -> Result<Located, Status> {
        let target = self.service.key.open(handle)?;
        let export = match self.service.exports.by_id(target.export, self.peer) {
            Ok(export) if export.admits(self.peer) => export,
            Ok(_) | Err(Refusal::Denied) => return Err(Status::Access),
            Err(Refusal::Unknown) => return Err(Status::Stale),
        };
        let caller = self.credential.caller(&export.options);
        Ok(Located {
            export,
            file: target.file,
            caller,
        })
    }

    /// Finds the folder of a place in which the caller wants to change entries.
    pub(super) fn locate_changing(&self, place: &Place<'_>) -> Result<Located, Status> {
        let directory = self.locate_writable(place.directory)?;
        place.check()?;
        directory.require(Rights::CHANGE_ENTRIES)?;
        Ok(directory)
    }

    /// Finds what a handle names, if its export takes changes.
    pub(super) fn locate_writable(&self, handle: &[u8]) -> Result<Located, Status> {
        let located = self.locate(handle)?;
        if located.export.options.read_only {
            return Err(Status::ReadOnlyFilesystem);
        }
        Ok(located)
    }
}

impl Located {
    pub(super) fn tree(&self) -> &dyn FileExport {
        &*self.export.tree
    }

    pub(super) fn attributes(&self) -> Result<Attributes, Status> {
        Ok(self.tree().attributes(self.file)?)
    }

    /// Refuses unless the caller has `rights` on the object.
    pub(super) fn require(&self, rights: Rights) -> Result<(), Status> {
        if self.caller.uid == 0 {
            // Root needs no bits here; the tree itself says what is not a folder.
            return Ok(());
        }
        access::check(&self.caller, &self.attributes()?, rights)
    }

    /// Attributes for an answer, where they can be had.
    pub(super) fn attributes_if_any(&self, file: FileId) -> Option<Attributes> {
        self.tree().attributes(file).ok()
    }

    pub(super) fn handle_of(&self, service: &Service, file: FileId) -> Handle {
        service.key.seal(Target {
            export: self.export.id,
            file,
        })
    }
}

impl Step {
    pub(super) fn later(
        cost: usize,
        work: impl FnOnce(&Service, &mut BytesMut) -> Result<Segments, Status> + Send + 'static,
    ) -> Self {
        Self::Later {
            cost,
            work: Box::new(work),
        }
    }

    pub(super) fn done() -> Self {
        Self::Done(Segments::new())
    }
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Self::Garbage
    }
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

impl From<ExportError> for Fault {
    fn from(error: ExportError) -> Self {
        Self::Refused(error.into())
    }
}
