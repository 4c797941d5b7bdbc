#![expect(clippy::cast_possible_truncation, reason = "small numbers")]

use proptest::prelude::*;

use super::*;
use crate::overlay::format::Proofs;
use crate::overlay::pages::MemoryPages;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sector {
    Below,
    Zero,
    Hole,
    PointFrom(u64),
    Data(u64),
}

fn flat(map: &mut Map, first: u64, sectors: u64) -> Vec<Sector> {
    let mut out = Vec::new();
    let mut next = first;
    let whole = map
        .walk(first, sectors, Look::Everywhere, &mut |span| {
            assert_eq!(span.sector, next);
            assert!(span.sectors > 0);
            next += span.sectors;
            for at in 0..span.sectors {
                out.push(match span.content {
                    Content::Below => Sector::Below,
                    Content::PointFrom { sector } => Sector::PointFrom(sector + at),
                    Content::Fill(Fill::Zero) => Sector::Zero,
                    Content::Fill(Fill::Hole) => Sector::Hole,
                    Content::Data { place, from } => {
                        let cut = place.cut(from + at as u32, 1);
                        Sector::Data(cut.position + cut.skip_bytes() as u64)
                    }
                });
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(whole);
    assert_eq!(next, first + sectors);
    out
}

fn store(map: &mut Map, pages: &MemoryPages) {
    let changed = map.changed();
    let batch: Vec<(PageKey, &[u8])> = changed
        .iter()
        .map(|page| (page.key, page.content.as_slice()))
        .collect();
    pages.put(Uuid::nil(), &batch, b"").unwrap();
    map.stored(&changed, true);
}

/// A disk over three levels where all the action is around one boundary of 64 GiB.
const SECTORS: u64 = 3 << 27 | 77;
const WINDOW: u64 = 128 * 1030 * 2;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_map_with_hardly_any_memory_is_what_was_put_last(
        operations in prop::collection::vec((0..WINDOW, 1_u64..2000, 0_u8..8, any::<bool>()), 1..40),
        at_end in any::<bool>(),
    ) {
        let pages = Arc::new(MemoryPages::new());
        let base = if at_end { SECTORS - WINDOW } else { (1 << 27) - WINDOW / 2 };
        let mut map = Map::empty(Uuid::nil(), pages.clone(), SECTORS * 512, 2000);
        let mut model = vec![Sector::Below; WINDOW as usize];
        for (number, (start, sectors, kind, checkpoint)) in operations.into_iter().enumerate() {
            let (start, sectors) = match kind {
                0 => (start, WINDOW - start),
                1 => (start / 128 * 128, (sectors * 64).min(WINDOW - start / 128 * 128)),
                _ => (start, sectors.min(WINDOW - start)),
            };
            if kind < 5 {
                let fill = if kind % 2 == 0 { Fill::Zero } else { Fill::Hole };
                map.fill(base + start, sectors, fill).unwrap();
                let what = if kind % 2 == 0 { Sector::Zero } else { Sector::Hole };
                model[start as usize..(start + sectors) as usize].fill(what);
            } else {
                let sectors = sectors.min(128 - (base + start) % 128);
                let position = number as u64 * 1_000_000;
                let checks = Proofs::Checks(vec![0; sectors.div_ceil(8) as usize]);
                map.put(base + start, sectors as u32, Place::new(1, position, sectors as u32, &checks)).unwrap();
                for at in 0..sectors {
                    model[(start + at) as usize] = Sector::Data(position + at * 512);
                }
            }
            if checkpoint {
                store(&mut map, &pages);
                map.shrink();
            }
        }
        prop_assert_eq!(flat(&mut map, base, WINDOW) == model, true);
        let live = model.iter().filter(|sector| matches!(sector, Sector::Data(_))).count() as u64;
        prop_assert_eq!(map.live_sectors(), live);
        store(&mut map, &pages);
        let mut reopened = Map::stored_in(Uuid::nil(), pages, SECTORS * 512, 1 << 20);
        prop_assert_eq!(flat(&mut reopened, base, WINDOW) == model, true);
        prop_assert!(flat(&mut reopened, 1000, 1000).iter().all(|sector| *sector == Sector::Below));
    }
}

#[test]
fn filling_the_largest_disk_takes_next_to_no_memory() {
    let size_bytes = 1 << 60;
    let mut map = Map::empty(
        Uuid::nil(),
        Arc::new(MemoryPages::new()),
        size_bytes,
        1 << 20,
    );
    map.put(1000, 4, Place::new(1, 128, 4, &Proofs::Checks(vec![0])))
        .unwrap();
    assert_eq!(map.live_sectors(), 4);
    map.fill(0, size_bytes / 512, Fill::Hole).unwrap();
    map.fill(3, size_bytes / 512 - 6, Fill::Zero).unwrap();
    assert_eq!(map.live_sectors(), 0);
    assert!(map.bytes() < 20_000, "{}", map.bytes());
    assert_eq!(
        flat(&mut map, 0, 4),
        [Sector::Hole, Sector::Hole, Sector::Hole, Sector::Zero]
    );
}

#[test]
fn a_lost_page_is_reported_and_the_rest_dropped() {
    let pages = Arc::new(MemoryPages::new());
    let mut map = Map::empty(Uuid::nil(), pages.clone(), 1 << 30, 1 << 20);
    map.put(0, 1, Place::new(1, 128, 1, &Proofs::Checks(vec![0])))
        .unwrap();
    store(&mut map, &pages);
    pages
        .put(
            Uuid::nil(),
            &[(node_key(0, 0), &[1, 2, 3, 4, 5])],
            b"checkpoint",
        )
        .unwrap();
    let mut map = Map::stored_in(Uuid::nil(), pages.clone(), 1 << 30, 1 << 20);
    assert!(
        map.put(1, 1, Place::new(1, 128, 1, &Proofs::Checks(vec![0])))
            .unwrap_err()
            .is_corrupt()
    );
    assert!(map.is_broken());
    assert_eq!(pages.checkpoint(Uuid::nil()).unwrap(), None);
}
