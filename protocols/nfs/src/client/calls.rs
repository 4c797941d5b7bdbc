//! The procedures of NFS version 3 as methods. Each cites nothing but its name: the sections are those of the server.

use export::{Attributes, CreateMode, FileId, SetAttributes, Statistics, Timestamp};

use super::answers::{
    Changed, ClientEntry, FilesystemInfo, FilesystemSpace, PathLimits, ReadAnswer, WriteAnswer,
};
use super::error::ClientError;
use super::rpc::{Results, Target};
use super::{Client, FileHandle, Found};
use crate::error::Status;
use crate::wire::nfs3::{self, Procedure};
use crate::wire::xdr::{Malformed, Reader, Writer, length_u32};

impl Client {
    /// NULL.
    ///
    /// # Errors
    /// If the server does not answer.
    pub fn null(&mut self) -> Result<(), ClientError> {
        self.call(Procedure::Null, |_| {}).map(drop)
    }

    /// GETATTR.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn getattr(&mut self, file: &FileHandle) -> Result<Attributes, ClientError> {
        let results = self.call(Procedure::Getattr, |out| out.opaque(&file.0))?;
        Ok(nfs3::decode_attributes(&mut checked(&results)?)?.attributes)
    }

    /// SETATTR; with `guard`, only if the file's change time is still that.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn setattr(
        &mut self,
        file: &FileHandle,
        change: &SetAttributes,
        guard: Option<Timestamp>,
    ) -> Result<Changed, ClientError> {
        let results = self.call(Procedure::Setattr, |out| {
            out.opaque(&file.0);
            nfs3::encode_set_attributes(out, change);
            out.optional(guard, nfs3::encode_time);
        })?;
        decode_changed(&mut checked(&results)?)
    }

    /// LOOKUP.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn lookup(&mut self, directory: &FileHandle, name: &[u8]) -> Result<Found, ClientError> {
        let results = self.call(Procedure::Lookup, |out| place(out, directory, name))?;
        let mut reader = checked(&results)?;
        let handle = FileHandle(reader.opaque(nfs3::HANDLE_MAX)?.to_vec());
        Ok(Found {
            handle,
            attributes: decode_post(&mut reader)?,
        })
    }

    /// Looks up every part of a path below the mounted folder.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn find(&mut self, path: &str) -> Result<Found, ClientError> {
        let mut found = Found {
            handle: self.root(),
            attributes: None,
        };
        for name in path.split('/').filter(|name| !name.is_empty()) {
            found = self.lookup(&found.handle, name.as_bytes())?;
        }
        Ok(found)
    }

    /// ACCESS: which of the `wanted` bits we have.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn access(&mut self, file: &FileHandle, wanted: u32) -> Result<u32, ClientError> {
        let results = self.call(Procedure::Access, |out| {
            out.opaque(&file.0);
            out.u32(wanted);
        })?;
        let mut reader = checked(&results)?;
        decode_post(&mut reader)?;
        Ok(reader.u32()?)
    }

    /// READLINK.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn readlink(&mut self, file: &FileHandle) -> Result<Vec<u8>, ClientError> {
        let results = self.call(Procedure::Readlink, |out| out.opaque(&file.0))?;
        let mut reader = checked(&results)?;
        decode_post(&mut reader)?;
        Ok(reader.opaque(nfs3::PATH_MAX)?.to_vec())
    }

    /// READ.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn read(
        &mut self,
        file: &FileHandle,
        offset: u64,
        count: u32,
    ) -> Result<ReadAnswer, ClientError> {
        let results = self.call(Procedure::Read, |out| {
            out.opaque(&file.0);
            out.u64(offset);
            out.u32(count);
        })?;
        let mut reader = checked(&results)?;
        let attributes = decode_post(&mut reader)?;
        let told = reader.u32()?;
        let end = reader.bool()?;
        let data = reader
            .opaque(usize::try_from(count).unwrap_or(usize::MAX))?
            .to_vec();
        if length_u32(data.len()) != told {
            return Err(ClientError::Malformed);
        }
        Ok(ReadAnswer {
            data,
            end,
            attributes,
        })
    }

    /// WRITE, stable at once (FILE_SYNC) or at the next [`commit`](Self::commit) (UNSTABLE).
    ///
    /// # Errors
    /// If the server refuses.
    pub fn write(
        &mut self,
        file: &FileHandle,
        offset: u64,
        data: &[u8],
        stable: bool,
    ) -> Result<WriteAnswer, ClientError> {
        let results = self.call(Procedure::Write, |out| {
            out.opaque(&file.0);
            out.u64(offset);
            out.u32(length_u32(data.len()));
            out.u32(if stable {
                nfs3::FILE_SYNC
            } else {
                nfs3::UNSTABLE
            });
            out.opaque(data);
        })?;
        let mut reader = checked(&results)?;
        let attributes = nfs3::decode_change(&mut reader)?.map(|change| change.attributes);
        let count = reader.u32()?;
        let stable = reader.u32()? != nfs3::UNSTABLE;
        Ok(WriteAnswer {
            count,
            stable,
            verifier: reader.array()?,
            attributes,
        })
    }

    /// COMMIT of the whole file; gives the write verifier.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn commit(&mut self, file: &FileHandle) -> Result<[u8; 8], ClientError> {
        let results = self.call(Procedure::Commit, |out| {
            out.opaque(&file.0);
            out.u64(0);
            out.u32(0);
        })?;
        let mut reader = checked(&results)?;
        nfs3::decode_change(&mut reader)?;
        Ok(reader.array()?)
    }

    /// CREATE. The attributes are not sent with an exclusive one.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn create(
        &mut self,
        directory: &FileHandle,
        name: &[u8],
        mode: CreateMode,
        attributes: &SetAttributes,
    ) -> Result<Found, ClientError> {
        let results = self.call(Procedure::Create, |out| {
            place(out, directory, name);
            match mode {
                CreateMode::Unchecked => out.u32(nfs3::CREATE_UNCHECKED),
                CreateMode::Guarded => out.u32(nfs3::CREATE_GUARDED),
                CreateMode::Exclusive(verifier) => {
                    out.u32(nfs3::CREATE_EXCLUSIVE);
                    out.fixed(&verifier);
                    return;
                }
            }
            nfs3::encode_set_attributes(out, attributes);
        })?;
        decode_made(&results)
    }

    /// MKDIR.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn mkdir(
        &mut self,
        directory: &FileHandle,
        name: &[u8],
        attributes: &SetAttributes,
    ) -> Result<Found, ClientError> {
        let results = self.call(Procedure::Mkdir, |out| {
            place(out, directory, name);
            nfs3::encode_set_attributes(out, attributes);
        })?;
        decode_made(&results)
    }

    /// SYMLINK.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn symlink(
        &mut self,
        directory: &FileHandle,
        name: &[u8],
        target: &[u8],
        attributes: &SetAttributes,
    ) -> Result<Found, ClientError> {
        let results = self.call(Procedure::Symlink, |out| {
            place(out, directory, name);
            nfs3::encode_set_attributes(out, attributes);
            out.opaque(target);
        })?;
        decode_made(&results)
    }

    /// MKNOD of the kind with this number (7 is a pipe).
    ///
    /// # Errors
    /// If the server refuses, as ours does.
    pub fn mknod(
        &mut self,
        directory: &FileHandle,
        name: &[u8],
        kind: u32,
    ) -> Result<Found, ClientError> {
        let results = self.call(Procedure::Mknod, |out| {
            place(out, directory, name);
            out.u32(kind);
            nfs3::encode_set_attributes(out, &SetAttributes::default());
        })?;
        decode_made(&results)
    }

    /// REMOVE.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn remove(&mut self, directory: &FileHandle, name: &[u8]) -> Result<Changed, ClientError> {
        let results = self.call(Procedure::Remove, |out| place(out, directory, name))?;
        decode_changed(&mut checked(&results)?)
    }

    /// RMDIR.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn rmdir(&mut self, directory: &FileHandle, name: &[u8]) -> Result<Changed, ClientError> {
        let results = self.call(Procedure::Rmdir, |out| place(out, directory, name))?;
        decode_changed(&mut checked(&results)?)
    }

    /// RENAME.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn rename(
        &mut self,
        from_directory: &FileHandle,
        from: &[u8],
        to_directory: &FileHandle,
        to: &[u8],
    ) -> Result<(Changed, Changed), ClientError> {
        let results = self.call(Procedure::Rename, |out| {
            place(out, from_directory, from);
            place(out, to_directory, to);
        })?;
        let mut reader = checked(&results)?;
        Ok((decode_changed(&mut reader)?, decode_changed(&mut reader)?))
    }

    /// LINK.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn link(
        &mut self,
        file: &FileHandle,
        directory: &FileHandle,
        name: &[u8],
    ) -> Result<Changed, ClientError> {
        let results = self.call(Procedure::Link, |out| {
            out.opaque(&file.0);
            place(out, directory, name);
        })?;
        let mut reader = checked(&results)?;
        decode_post(&mut reader)?;
        decode_changed(&mut reader)
    }

    /// READDIR from `cookie` (0 starts); the entries, and whether the folder ends with them.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn readdir(
        &mut self,
        directory: &FileHandle,
        cookie: u64,
        verifier: [u8; 8],
        count: u32,
    ) -> Result<(Vec<ClientEntry>, bool, [u8; 8]), ClientError> {
        let results = self.call(Procedure::Readdir, |out| {
            out.opaque(&directory.0);
            out.u64(cookie);
            out.fixed(&verifier);
            out.u32(count);
        })?;
        decode_entries(&mut checked(&results)?, |_| Ok(None))
    }

    /// READDIRPLUS from `cookie` (0 starts); the entries, and whether the folder ends with them.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn readdirplus(
        &mut self,
        directory: &FileHandle,
        cookie: u64,
        verifier: [u8; 8],
        count: u32,
    ) -> Result<(Vec<ClientEntry>, bool, [u8; 8]), ClientError> {
        let results = self.call(Procedure::Readdirplus, |out| {
            out.opaque(&directory.0);
            out.u64(cookie);
            out.fixed(&verifier);
            out.u32(count);
            out.u32(count);
        })?;
        decode_entries(&mut checked(&results)?, |reader| {
            let attributes = decode_post(reader)?;
            let handle = reader.optional(|reader| reader.opaque(nfs3::HANDLE_MAX))?;
            Ok(handle.map(|handle| Found {
                handle: FileHandle(handle.to_vec()),
                attributes,
            }))
        })
    }

    /// Every entry of a folder, `.` and `..` too.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn list(&mut self, directory: &FileHandle) -> Result<Vec<ClientEntry>, ClientError> {
        let (mut all, mut cookie, mut verifier) = (Vec::new(), 0, [0; 8]);
        loop {
            let (entries, end, next) = self.readdirplus(directory, cookie, verifier, LIST_BYTES)?;
            verifier = next;
            cookie = entries.last().map_or(cookie, |entry| entry.cookie);
            let stuck = entries.is_empty();
            all.extend(entries);
            if end {
                return Ok(all);
            }
            if stuck {
                return Err(ClientError::Malformed);
            }
        }
    }

    /// FSSTAT.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn fsstat(&mut self, file: &FileHandle) -> Result<FilesystemSpace, ClientError> {
        let results = self.call(Procedure::Fsstat, |out| out.opaque(&file.0))?;
        let mut reader = checked(&results)?;
        decode_post(&mut reader)?;
        let statistics = Statistics {
            total_bytes: reader.u64()?,
            free_bytes: reader.u64()?,
            available_bytes: reader.u64()?,
            total_files: reader.u64()?,
            free_files: reader.u64()?,
        };
        Ok(FilesystemSpace { statistics })
    }

    /// FSINFO.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn fsinfo(&mut self, file: &FileHandle) -> Result<FilesystemInfo, ClientError> {
        let results = self.call(Procedure::Fsinfo, |out| out.opaque(&file.0))?;
        let mut reader = checked(&results)?;
        decode_post(&mut reader)?;
        let read_max = reader.u32()?;
        let read_preferred = reader.u32()?;
        let _read_multiple = reader.u32()?;
        let write_max = reader.u32()?;
        let write_preferred = reader.u32()?;
        let _write_multiple = reader.u32()?;
        let _list_preferred = reader.u32()?;
        let size_max = reader.u64()?;
        nfs3::decode_time(&mut reader)?;
        let properties = reader.u32()?;
        Ok(FilesystemInfo {
            read_max,
            read_preferred,
            write_max,
            write_preferred,
            size_max,
            properties,
        })
    }

    /// PATHCONF.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn pathconf(&mut self, file: &FileHandle) -> Result<PathLimits, ClientError> {
        let results = self.call(Procedure::Pathconf, |out| out.opaque(&file.0))?;
        let mut reader = checked(&results)?;
        decode_post(&mut reader)?;
        Ok(PathLimits {
            links_max: reader.u32()?,
            name_max: reader.u32()?,
        })
    }

    fn call(
        &mut self,
        procedure: Procedure,
        arguments: impl FnOnce(&mut Writer<'_, Vec<u8>>),
    ) -> Result<Results, ClientError> {
        let (program, version) = (nfs3::PROGRAM, nfs3::VERSION);
        let target = Target {
            program,
            version,
            procedure: procedure.number(),
        };
        self.connection.call(target, arguments)
    }
}

/// Reads the status before the results.
fn checked(results: &Results) -> Result<Reader<'_>, ClientError> {
    let mut reader = results.reader();
    match reader.u32()? {
        0 => Ok(reader),
        number => Err(ClientError::Refused(Status::from_number(number))),
    }
}

fn place(out: &mut Writer<'_, Vec<u8>>, directory: &FileHandle, name: &[u8]) {
    out.opaque(&directory.0);
    out.opaque(name);
}

fn decode_post(reader: &mut Reader<'_>) -> Result<Option<Attributes>, Malformed> {
    let attributes = reader.optional(nfs3::decode_attributes)?;
    Ok(attributes.map(|decoded| decoded.attributes))
}

fn decode_changed(reader: &mut Reader<'_>) -> Result<Changed, ClientError> {
    let changed_before = reader.optional(|reader| {
        reader.u64()?;
        nfs3::decode_time(reader)?;
        nfs3::decode_time(reader)
    })?;
    Ok(Changed {
        changed_before,
        after: decode_post(reader)?,
    })
}

fn decode_made(results: &Results) -> Result<Found, ClientError> {
    let mut reader = checked(results)?;
    let handle = reader.optional(|reader| reader.opaque(nfs3::HANDLE_MAX))?;
    let handle = FileHandle(handle.ok_or(ClientError::Malformed)?.to_vec());
    Ok(Found {
        handle,
        attributes: decode_post(&mut reader)?,
    })
}

fn decode_entries(
    reader: &mut Reader<'_>,
    mut more: impl FnMut(&mut Reader<'_>) -> Result<Option<Found>, Malformed>,
) -> Result<(Vec<ClientEntry>, bool, [u8; 8]), ClientError> {
    decode_post(reader)?;
    let verifier = reader.array()?;
    let mut entries = Vec::new();
    while reader.bool()? {
        let file = FileId(reader.u64()?);
        let name = reader.opaque(nfs3::NAME_MAX)?.to_vec();
        let cookie = reader.u64()?;
        entries.push(ClientEntry {
            file,
            name,
            cookie,
            found: more(reader)?,
        });
    }
    Ok((entries, reader.bool()?, verifier))
}

const LIST_BYTES: u32 = 64 * 1024;
