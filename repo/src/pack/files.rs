//! The files of a repository's packs, as they lie there.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::format::{PACK_PLAIN, PAGE_BYTES, PackHeader, pack_path, parse_pack_name};
use super::scan::scan_records;
use super::table::{Ending, PackTable, read_ending};
use super::window::Fetch;
use crate::disk::{Access, AlignedBuffer, Caching, Disk, DiskFile};
use crate::error::RepoError;
use crate::pack::RecordKind;

/// A file that is a pack by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PackFile {
    pub(crate) number: u32,
    pub(crate) epoch: u32,
    pub(crate) path: PathBuf,
    pub(crate) length_bytes: u64,
    pub(crate) has_parity: bool,
}

/// Whose a pack is, by its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PackOwner {
    pub(crate) repository: Uuid,
    pub(crate) encrypted: bool,
}

/// All packs by number. What is not where a pack belongs is none. A folder that cannot be read costs the packs in it:
/// `unreadable` is told.
pub(crate) fn packs_on(disk: &dyn Disk, unreadable: &mut dyn FnMut(RepoError)) -> Vec<PackFile> {
    let mut packs = Vec::new();
    let mut list = |path: &Path| {
        disk.list(path)
            .map_err(|error| unreadable(error.into()))
            .unwrap_or_default()
    };
    for folder in list(Path::new("packs")) {
        if !folder.is_directory {
            continue;
        }
        let folder = Path::new("packs").join(&folder.name);
        let items = list(&folder);
        for item in &items {
            let path = folder.join(&item.name);
            let known = parse_pack_name(&item.name);
            if let Some((number, epoch)) =
                known.filter(|(number, epoch)| pack_path(*number, *epoch) == path)
            {
                let parity = format!("{}.parity", item.name);
                packs.push(PackFile {
                    number,
                    epoch,
                    path,
                    length_bytes: item.length_bytes,
                    has_parity: items.iter().any(|item| item.name == parity),
                });
            }
        }
    }
    packs.sort();
    packs
}

/// Whose a pack says it is, if its header is sound.
pub(crate) fn owner_of_pack(disk: &dyn Disk, pack: &PackFile) -> Option<PackOwner> {
    let file = disk.open(&pack.path, Access::Read, Caching::Direct).ok()?;
    let mut page = AlignedBuffer::zeroed(PAGE_BYTES);
    let got = file.read_at(0, &mut page).ok()?;
    let header = PackHeader::decode(page.get(..got)?).ok()?;
    Some(PackOwner {
        repository: Uuid::from_bytes(header.repository),
        encrypted: header.encryption.get() != PACK_PLAIN,
    })
}

/// The table of a pack, or what a scan finds where there is no sound one.
pub(crate) fn table_or_scan(file: &dyn DiskFile, number: u32) -> Result<PackTable, RepoError> {
    let end = match read_ending(file)? {
        Ending::Sealed { table, .. } => return Ok(table),
        Ending::Damaged { table_offset } => table_offset,
        Ending::Open => file.length()?,
    };
    let mut table = PackTable::default();
    scan_records(
        file,
        number,
        PAGE_BYTES as u64,
        end,
        Fetch::InTurn,
        &mut |record| {
            if record.header.kind != RecordKind::Padding {
                table.push(record.place, &record.header);
            }
            Ok(())
        },
    )?;
    Ok(table)
}
