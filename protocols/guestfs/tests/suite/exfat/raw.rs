//! Images by their bytes, to make what no program makes.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use crate::image::{Mount, have, run};

/// Makes a filesystem of so many MiB and lets `fill` write to it; `None` where that is not possible.
pub(crate) fn mkfs_exfat(
    image: &Path,
    mib: u64,
    options: &str,
    fill: impl FnOnce(&Path),
) -> Option<()> {
    if !have("mkfs.exfat") || !have("mount.exfat-fuse") {
        return None;
    }
    drop(fs::remove_file(image));
    File::create(image).unwrap().set_len(mib << 20).unwrap();
    run(Command::new("mkfs.exfat")
        .args(options.split_whitespace())
        .arg(image));
    let mount = Mount::new(image, "exfat-fuse", "umask=022,uid=0,gid=0")?;
    fill(mount.path());
    Some(())
}

/// What fsck.exfat says of an image.
pub(crate) fn checked(image: &Path) -> (Option<i32>, String) {
    let output = Command::new("fsck.exfat")
        .args(["-n", "-v"])
        .arg(image)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (
        output.status.code(),
        said.replace(&image.display().to_string(), "it"),
    )
}

/// The bytes of an image.
pub(crate) struct Raw {
    pub bytes: Vec<u8>,
}

impl Raw {
    pub(crate) fn read(image: &Path) -> Self {
        let bytes = fs::read(image).unwrap();
        Self { bytes }
    }

    pub(crate) fn u32(&self, at: usize) -> usize {
        let word = self.bytes[at..at + 4].try_into().unwrap();
        usize::try_from(u32::from_le_bytes(word)).unwrap()
    }

    fn sector(&self) -> usize {
        1 << self.bytes[108]
    }

    pub(crate) fn cluster_bytes(&self) -> usize {
        self.sector() << self.bytes[109]
    }

    pub(crate) fn cluster_at(&self, cluster: usize) -> usize {
        self.u32(88) * self.sector() + (cluster - 2) * self.cluster_bytes()
    }

    /// Where the table says something of a cluster.
    pub(crate) fn link_at(&self, cluster: usize) -> usize {
        self.u32(80) * self.sector() + cluster * 4
    }

    /// Where the set of entries of a name lies.
    pub(crate) fn set(&self, name: &str) -> usize {
        let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let found = (0..self.bytes.len() - 96).step_by(32).find(|at| {
            let entry = &self.bytes[*at..];
            entry[0] == 0x85 && entry[64] == 0xC1 && entry[66..66 + units.len()] == units
        });
        found.unwrap()
    }

    /// Makes the checksum of a set right again.
    pub(crate) fn prove(&mut self, set: usize) {
        let length = (usize::from(self.bytes[set + 1]) + 1) * 32;
        let sum = checksum(&self.bytes[set..set + length]);
        self.bytes[set + 2..set + 4].copy_from_slice(&sum.to_le_bytes());
    }

    /// Makes the checksums of both boot regions right again.
    pub(crate) fn prove_boot(&mut self) {
        let sector = self.sector();
        for region in [0, 12 * sector] {
            let sum = self.bytes[region..region + 11 * sector]
                .iter()
                .enumerate()
                .filter(|(at, _)| ![106, 107, 112].contains(at))
                .fold(0_u32, |sum, (_, byte)| {
                    sum.rotate_right(1).wrapping_add((*byte).into())
                });
            for word in self.bytes[region + 11 * sector..region + 12 * sector].chunks_exact_mut(4) {
                word.copy_from_slice(&sum.to_le_bytes());
            }
        }
    }
}

fn checksum(set: &[u8]) -> u16 {
    let bytes = set.iter().enumerate();
    let proven = bytes.filter(|(at, _)| ![2, 3].contains(at));
    proven.fold(0, |sum: u16, (_, byte)| {
        sum.rotate_right(1).wrapping_add((*byte).into())
    })
}

/// The set of entries of a file of `length` bytes in one cluster.
pub(crate) fn entries(name: &str, cluster: u32, length: u64) -> Vec<u8> {
    let units: Vec<u16> = name.encode_utf16().collect();
    let parts = units.len().div_ceil(15);
    let mut set = vec![0; (2 + parts) * 32];
    set[0] = 0x85;
    set[1] = u8::try_from(1 + parts).unwrap();
    set[4] = 0x20;
    set[12..16].copy_from_slice(&0x5A21_6000_u32.to_le_bytes());
    set[32] = 0xC0;
    set[33] = 3;
    set[35] = u8::try_from(units.len()).unwrap();
    set[40..48].copy_from_slice(&length.to_le_bytes());
    set[52..56].copy_from_slice(&cluster.to_le_bytes());
    set[56..64].copy_from_slice(&length.to_le_bytes());
    for (part, units) in units.chunks(15).enumerate() {
        let entry = &mut set[(2 + part) * 32..][..32];
        entry[0] = 0xC1;
        for (unit, place) in units.iter().zip(entry[2..].chunks_exact_mut(2)) {
            place.copy_from_slice(&unit.to_le_bytes());
        }
    }
    let sum = checksum(&set);
    set[2..4].copy_from_slice(&sum.to_le_bytes());
    set
}
