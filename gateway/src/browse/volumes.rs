//! The volumes of a folder, opened, or why not: those of a disk, or those that are put together from several.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use export::FileExport;
use guestworker::{GuestVolume, Made, Refusal, VolumePlace};

use super::disk_tree::ASSEMBLED_NAME;
use super::guest::Seen;
use super::ids::SLOTS_MAX;

/// What a folder shows, by slot.
#[derive(Default)]
pub(super) struct Volumes {
    all: Vec<Option<Shown>>,
    may_change: bool,
}

/// Something in a folder of volumes.
pub(super) struct Shown {
    pub(super) name: String,
    pub(super) found: Found,
    /// What there is to say of it in a list.
    pub(super) note: Option<String>,
}

/// A volume that was looked into.
pub(super) enum Found {
    /// Its files.
    Tree(Arc<dyn FileExport>),
    /// Why they are not shown, or what is wrong with it: a small text.
    Reason(Bytes),
}

/// The names that a folder has shown so far, by slot. Each keeps its slot when volumes come and go, so that numbers of files
/// go on to mean the same.
#[derive(Default)]
pub(super) struct Slots(Vec<String>);

impl Volumes {
    /// Opens what lies on a disk. Whatever cannot be shown is told, and does not keep the rest from being shown.
    pub(super) fn on_disk(seen: &Seen, disk: usize, slots: &mut Slots) -> Self {
        let mut shown = Collector::default();
        let volumes = match &seen.volumes {
            Err(refusal) => {
                shown.add_refusal("disk", refusal, "");
                return shown.finish(slots);
            }
            Ok(volumes) => volumes.iter().map(|volume| &**volume),
        };
        let is_here = |volume: &&dyn GuestVolume| match volume.description().place {
            VolumePlace::Disk(number) => usize::try_from(number) == Ok(disk),
            VolumePlace::Assembled(_) => false,
        };
        let of_disk = seen.role(&format!("disk-{disk}"));
        let mut is_whole = false;
        for volume in volumes.filter(is_here) {
            let description = volume.description();
            let name = &description.name;
            let role = match description.partition {
                Some(_) => seen.role(&format!("disk-{disk}/{name}")),
                None => of_disk,
            };
            is_whole |= description.partition.is_none();
            match role {
                Some(role) => shown.add_member(name, role),
                None => shown.add(volume),
            }
        }
        // Its partitions, which are shown, may be those of what it is a member of.
        if let (Some(role), false) = (of_disk, is_whole) {
            shown.add_member("disk", role);
        }
        shown.finish(slots)
    }

    /// Opens what is put together from the disks.
    pub(super) fn assembled(seen: &Seen, slots: &mut Slots) -> Self {
        let mut shown = Collector::default();
        match (&seen.assembly, &seen.volumes) {
            (Ok(assembly), _) => {
                for volume in &assembly.volumes {
                    let name = &volume.description().name;
                    match seen.role(name) {
                        Some(role) => shown.add_member(name, role),
                        None => shown.add(&**volume),
                    }
                }
            }
            (Err(refusal), Ok(_)) => shown.add_refusal("all", refusal, ""),
            // The folder of each disk says it.
            (Err(_), Err(_)) => {}
        }
        shown.finish(slots)
    }

    /// Whether something could not be reached, which may be otherwise another time.
    pub(super) fn may_change(&self) -> bool {
        self.may_change
    }

    /// All, with their slots.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Shown)> {
        let all = self.all.iter().enumerate();
        all.filter_map(|(slot, shown)| Some((slot, shown.as_ref()?)))
    }

    pub(super) fn get(&self, slot: usize) -> Option<&Shown> {
        self.all.get(slot)?.as_ref()
    }
}

impl Seen {
    /// What something is a member of.
    fn role(&self, member: &str) -> Option<&str> {
        let memberships = &self.assembly.as_ref().ok()?.memberships;
        let found = memberships.iter().find(|found| found.member == member);
        found.map(|found| found.role.as_str())
    }
}

/// What is to be shown, before it gets its slots.
#[derive(Default)]
struct Collector {
    shown: Vec<Shown>,
    names: HashSet<String>,
    may_change: bool,
}

impl Collector {
    fn add(&mut self, volume: &dyn GuestVolume) {
        let description = volume.description();
        let name = &description.name;
        let made = match &description.place {
            VolumePlace::Disk(_) => None,
            VolumePlace::Assembled(made) => Some(made),
        };
        let open = || {
            let tree = volume.files()?;
            tree.attributes(tree.root())?;
            Ok(tree)
        };
        match open() {
            Ok(tree) => {
                self.push(name.clone(), Found::Tree(tree), made.map(describe));
                if let Some(made) = made.filter(|made| !made.missing.is_empty()) {
                    let text = format!(
                        "{name} is read without what is missing: {}.\nIt is: {}.\n",
                        made.missing.join(", "),
                        describe(made)
                    );
                    let note = format!("missing: {}", made.missing.join(", "));
                    self.push_text(name, text, note);
                }
            }
            Err(refusal) => {
                let more = made.map(|made| format!("It is: {}.\n", describe(made)));
                self.add_refusal(name, &refusal, &more.unwrap_or_default());
            }
        }
    }

    fn add_member(&mut self, name: &str, role: &str) {
        let text = format!(
            "{name} is {role}.\nWhat is put together from it is in the folder `{ASSEMBLED_NAME}` beside those of the disks.\n"
        );
        self.push_text(name, text, role.to_owned());
    }

    fn add_refusal(&mut self, name: &str, refusal: &Refusal, more: &str) {
        let text = format!(
            "The files of {name} are not shown: {refusal}.\n{more}Its bytes are in the files of the whole disk beside this folder.\n"
        );
        self.push_text(name, text, format!("not shown: {refusal}"));
        self.may_change |= refusal.is_of_the_way();
    }

    fn push_text(&mut self, name: &str, text: String, note: String) {
        let found = Found::Reason(text.into());
        self.push(format!("{name}.txt"), found, Some(note));
    }

    fn push(&mut self, mut name: String, found: Found, note: Option<String>) {
        while !self.names.insert(name.clone()) {
            name.push('_');
        }
        self.shown.push(Shown { name, found, note });
    }

    fn finish(mut self, slots: &mut Slots) -> Volumes {
        // The last slot says how many have none.
        let more = self.shown.split_off(self.shown.len().min(SLOTS_MAX - 1));
        if !more.is_empty() {
            let text = format!("{} more are not shown: there are too many.\n", more.len());
            let note = text.trim_end().to_owned();
            self.push_text("and-more", text, note);
        }
        let names: HashSet<_> = self.shown.iter().map(|shown| shown.name.clone()).collect();
        let mut all: Vec<Option<Shown>> = Vec::new();
        for shown in self.shown {
            let slot = slots.give(&shown.name, &names);
            all.resize_with(all.len().max(slot + 1), || None);
            if let Some(place) = all.get_mut(slot) {
                *place = Some(shown);
            }
        }
        Volumes {
            all,
            may_change: self.may_change,
        }
    }
}

impl Slots {
    /// The slot of one of `names`, which are fewer than there are slots.
    fn give(&mut self, name: &str, names: &HashSet<String>) -> usize {
        if let Some(known) = self.0.iter().position(|known| known == name) {
            return known;
        }
        let is_gone = |known: &String| !names.contains(known);
        let reused = match self.0.len() < SLOTS_MAX {
            true => None,
            false => self.0.iter().position(is_gone),
        };
        match reused.and_then(|slot| Some((slot, self.0.get_mut(slot)?))) {
            Some((slot, known)) => {
                name.clone_into(known);
                slot
            }
            None => {
                self.0.push(name.to_owned());
                self.0.len() - 1
            }
        }
    }
}

/// What something is and of what it is made, in a few words.
fn describe(made: &Made) -> String {
    let Made {
        description,
        members,
        ..
    } = made;
    let more = members.len().saturating_sub(MEMBERS_SHOWN);
    let mut shown: Vec<_> = members.iter().take(MEMBERS_SHOWN).cloned().collect();
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    match shown.is_empty() {
        true => description.clone(),
        false => format!("{description}; made of {}", shown.join(", ")),
    }
}

const MEMBERS_SHOWN: usize = 6;

#[cfg(test)]
mod tests {
    use export::{
        BlockExport, BlockProperties, Durability, ExportError, Extent, MemoryDisk, Segments,
        ZeroMode,
    };
    use guestworker::{GuestReader, Reader as _};

    use super::*;

    fn look(disk: Arc<dyn BlockExport>) -> Volumes {
        let disks = [disk];
        let (found, assembly) = (GuestReader.open(&disks), GuestReader.assemble(&disks));
        Volumes::on_disk(&Seen::of(found, assembly, 1), 0, &mut Slots::default())
    }

    #[test]
    fn names_keep_their_slots() {
        let mut slots = Slots::default();
        let mut give = |wanted: std::ops::Range<usize>| -> Vec<usize> {
            let names: Vec<_> = wanted.map(|number| number.to_string()).collect();
            let all = names.iter().cloned().collect();
            names.iter().map(|name| slots.give(name, &all)).collect()
        };
        assert_eq!(give(0..3), [0, 1, 2]);
        assert_eq!(give(2..5), [2, 3, 4]);
        assert_eq!(give(0..5), [0, 1, 2, 3, 4]);
        // Whoever is gone gives way when there is no room.
        let all = give(100..100 + SLOTS_MAX);
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), SLOTS_MAX);
        assert!(all.iter().all(|slot| *slot < SLOTS_MAX));
        assert_eq!(give(100..100 + SLOTS_MAX), all);
    }

    #[test]
    fn too_many_are_counted() {
        let mut collector = Collector::default();
        for number in 0..300 {
            collector.add_member(&number.to_string(), "a member");
        }
        let volumes = collector.finish(&mut Slots::default());
        assert_eq!(volumes.iter().count(), SLOTS_MAX);
        let last = volumes.get(SLOTS_MAX - 1).unwrap();
        assert_eq!(last.name, "and-more.txt");
        assert_eq!(
            last.note.as_deref(),
            Some("46 more are not shown: there are too many.")
        );
    }

    /// A disk that cannot be reached.
    struct Away;

    fn away<T>() -> Result<T, ExportError> {
        Err(ExportError::Storage {
            detail: "nobody answers".into(),
        })
    }

    impl BlockExport for Away {
        fn properties(&self) -> BlockProperties {
            MemoryDisk::new(1 << 20).properties()
        }

        fn read(&self, _: u64, _: u32) -> Result<Segments, ExportError> {
            away()
        }

        fn write(&self, _: u64, _: &[Bytes], _: Durability) -> Result<(), ExportError> {
            away()
        }

        fn write_zeroes(
            &self,
            _: u64,
            _: u64,
            _: ZeroMode,
            _: Durability,
        ) -> Result<(), ExportError> {
            away()
        }

        fn discard(&self, _: u64, _: u64, _: Durability) -> Result<(), ExportError> {
            away()
        }

        fn flush(&self) -> Result<(), ExportError> {
            away()
        }

        fn extents(&self, _: u64, _: u64, _: usize) -> Result<Vec<Extent>, ExportError> {
            away()
        }
    }

    #[test]
    fn only_a_disk_that_cannot_be_reached_is_looked_at_again() {
        let blank: Arc<dyn BlockExport> = Arc::new(MemoryDisk::new(1 << 20));
        let found = look(blank);
        assert_eq!(found.get(0).unwrap().name, "disk.txt");
        assert!(!found.may_change(), "what lies on it stays unknown");
        let away: Arc<dyn BlockExport> = Arc::new(Away);
        let found = look(away);
        assert_eq!(found.get(0).unwrap().name, "disk.txt");
        assert!(found.may_change());
    }
}
