//! Bits that flip where parity promises repair.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use repo::disk::Disk as _;
use repo::{Repair, VerifyOptions, VerifyReport, VerifyScope};

use crate::chance::Chance;
use crate::lies::Lie;
use crate::run::{Run, Wrong};

/// A page in which a bit has flipped.
pub(crate) struct RottenPage {
    path: PathBuf,
    number: u64,
    /// What it held before.
    sound: Vec<u8>,
}

impl RottenPage {
    fn is_of_parity(&self) -> bool {
        self.path.extension().is_some_and(|end| end == "parity")
    }
}

/// A pack on the disk.
pub(crate) struct PackOnDisk {
    pub(crate) path: PathBuf,
    pub(crate) length_bytes: u64,
    pub(crate) parity: Option<ParityOnDisk>,
}

pub(crate) struct ParityOnDisk {
    pub(crate) path: PathBuf,
    pub(crate) pages: u64,
    /// Pages of the pack that it covers.
    covered_pages: u64,
}

impl Run {
    /// Flips some bits of a few neighbouring pages of a pack, or of one page of its parity. All reads must still be
    /// right.
    pub(crate) fn rot(&mut self, chance: &mut Chance) {
        if self.is_rotten() {
            return;
        }
        let packs: Vec<_> = self
            .packs()
            .into_iter()
            .filter_map(|pack| Some((pack.path, pack.parity?)))
            .collect();
        self.rot.clear();
        let at = chance.below(packs.len() as u64) as usize;
        let Some((pack, parity)) = packs.into_iter().nth(at) else {
            return;
        };
        let beyond = self.lie == Lie::RotBeyondParity;
        let in_parity = beyond || chance.one_in(4);
        let in_pack = beyond || !in_parity || chance.one_in(2);
        if in_parity {
            let page = chance.below(parity.pages);
            let first = if beyond { 0 } else { page };
            let last = if beyond { parity.pages - 1 } else { page };
            self.flip(&parity.path, first..=last, chance);
        }
        // As many pages of parity as of data can be bad, in all sixteen at least or all there are.
        let spared = u64::from(in_parity && !beyond);
        let pages = (1 + chance.below(6)).min(parity.covered_pages.saturating_sub(spared));
        if in_pack && pages > 0 {
            let first = chance.below(parity.covered_pages - pages + 1);
            self.flip(&pack, first..=first + pages - 1, chance);
        }
    }

    /// Whether a page is still there and not what it was.
    pub(crate) fn is_rotten(&self) -> bool {
        self.rotten_pages().next().is_some()
    }

    fn rotten_pages(&self) -> impl Iterator<Item = &RottenPage> {
        self.rot.iter().filter(|page| {
            let found = page_of(&self.disk, &page.path, page.number);
            found.is_some_and(|found| found != page.sound)
        })
    }

    /// Verifies and repairs; afterwards everything is sound.
    pub(crate) fn repair(&mut self) -> Result<(), Wrong> {
        let before = self.faults();
        let options = VerifyOptions {
            scope: VerifyScope::All,
            rate: None,
            repair: Repair::Yes,
        };
        let repaired = self
            .repository()
            .verify_with(&options, &mut |_| ControlFlow::Continue(()));
        let Some(report) = self.judge("repairing", before, repaired)? else {
            return Ok(());
        };
        self.counts.mended_pages += report.mended_pages;
        if self.is_excused(before) || self.degraded {
            return Ok(());
        }
        if !report.is_sound() {
            return Err(format!("a repair leaves damage: {report:?}"));
        }
        self.judge_rot(&report)?;
        self.say(format!(
            "{} pages are mended, parity is made for {} packs",
            report.mended_pages, report.parity_made
        ));
        if let Some(page) = self.rotten_pages().find(|page| !page.is_of_parity()) {
            return Err(format!("{} is not mended", page.path.display()));
        }
        self.rot.clear();
        self.verify()
    }

    /// Whoever looks at everything must see what has flipped.
    pub(crate) fn judge_rot(&self, report: &VerifyReport) -> Result<(), Wrong> {
        let seen = !report.mendable.is_empty() || !report.mended.is_empty();
        // Parity that is hurt is made again, and nothing is lost with it.
        let mut pages = self.rotten_pages();
        match pages.find(|page| !page.is_of_parity()) {
            Some(page) if !seen => Err(format!(
                "bits have flipped in page {} of {}, and nobody noticed",
                page.number,
                page.path.display()
            )),
            _ => Ok(()),
        }
    }

    /// Flips a bit in each of some pages.
    pub(crate) fn flip(
        &mut self,
        path: &Path,
        pages: std::ops::RangeInclusive<u64>,
        chance: &mut Chance,
    ) {
        self.say(format!(
            "bits flip in pages {pages:?} of {}",
            path.display()
        ));
        for number in pages {
            let Some(sound) = page_of(&self.disk, path, number) else {
                continue;
            };
            let byte = number * PAGE + chance.below(PAGE);
            self.disk.flip_bit(path, byte, chance.below(8) as u8);
            let path = path.to_owned();
            self.rot.push(RottenPage {
                path,
                number,
                sound,
            });
        }
    }

    /// The packs as they lie on the disk. A copy is asked, so that nobody takes it for the repository's reading.
    pub(crate) fn packs(&self) -> Vec<PackOnDisk> {
        packs_on(&self.disk)
    }
}

/// The packs that lie on a disk.
pub(crate) fn packs_on(disk: &repo::disk::SimulatedDisk) -> Vec<PackOnDisk> {
    let disk = disk.fork();
    let mut packs = Vec::new();
    for folder in disk.list(Path::new("packs")).unwrap_or_default() {
        let folder = Path::new("packs").join(folder.name);
        for item in disk.list(&folder).unwrap_or_default() {
            // `NNNNNNNN.EEEEEEEE`; what lies beside a pack has one more part to its name.
            if item.name.len() != 17 {
                continue;
            }
            let path = folder.join(&item.name);
            packs.push(PackOnDisk {
                parity: parity_of(&disk, &folder.join(format!("{}.parity", item.name))),
                path,
                length_bytes: item.length_bytes,
            });
        }
    }
    packs
}

/// What a page holds, as far as it goes. A copy is asked, as always.
fn page_of(disk: &repo::disk::SimulatedDisk, path: &Path, number: u64) -> Option<Vec<u8>> {
    let content = disk.fork().read(path, 1 << 24).ok()?;
    let rest = content.get((number * PAGE) as usize..)?;
    Some(rest[..rest.len().min(PAGE as usize)].to_vec())
}

/// `docs/formats/parity.md`: the header says how much is covered.
fn parity_of(disk: &repo::disk::SimulatedDisk, path: &Path) -> Option<ParityOnDisk> {
    let content = disk.read(path, 1 << 24).ok()?;
    let covered = content
        .get(40..48)?
        .try_into()
        .ok()
        .map(u64::from_le_bytes)?;
    Some(ParityOnDisk {
        path: path.to_owned(),
        pages: content.len() as u64 / PAGE,
        covered_pages: covered / PAGE,
    })
}

pub(crate) const PAGE: u64 = 4096;
