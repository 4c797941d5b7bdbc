//! Bits that turn over, and hostile bytes.

#![expect(clippy::cast_possible_truncation, reason = "small numbers")]

use std::sync::Arc;

use proptest::prelude::*;
use repo::disk::Disk;
use repo::overlay::{BlockCache, OverlayKeys, OverlaySettings};

use crate::overlay_rig::{ID, Model, Rig, pieces, read, small_settings, tagged};

const SIZE_BYTES: u64 = 3 * 65536;

fn settings() -> OverlaySettings {
    OverlaySettings {
        segment_bytes: 6_000,
        // Nothing is padded, so nearly every byte matters.
        direct_bytes_min: u64::MAX,
        blocks: Arc::new(BlockCache::new(0)),
        ..small_settings()
    }
}

/// A small journal of three segments, all of it flushed.
fn prepare(settings: OverlaySettings) -> (Rig, Model) {
    prepare_on(Rig::new(SIZE_BYTES, settings))
}

fn prepare_on(rig: Rig) -> (Rig, Model) {
    let overlay = rig.create().unwrap();
    let mut model = Model::new(&rig.ground);
    for (tag, sector, sectors) in [
        (1, 3, 9),
        (2, 8, 1),
        (3, 126, 5),
        (4, 200, 3),
        (5, 4, 2),
        (6, 260, 8),
    ] {
        let bytes = tagged(tag, sectors);
        overlay
            .write(sector as u64 * 512, &pieces(&bytes), tag == 3)
            .unwrap();
        model.put(sector, &bytes);
    }
    overlay.discard(512 * 201, 512, false).unwrap();
    model.fill(201, 1, repo::overlay::OverlayState::Hole);
    overlay.flush().unwrap();
    (rig, model)
}

/// Whether opening and reading everything gave an error; panics if it gave wrong bytes.
fn is_reported(rig: &Rig, model: &Model, what: &str) -> bool {
    let overlay = match rig.open() {
        Ok(overlay) => overlay,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return true;
        }
    };
    let mut reported = false;
    for start in (0..model.bytes.len()).step_by(2048) {
        match read(&overlay, start as u64, 2048) {
            Ok(bytes) => assert!(
                bytes == model.bytes[start..start + 2048],
                "{what}: wrong bytes at {start}"
            ),
            Err(error) => {
                assert!(error.is_corrupt(), "{what}: {error}");
                reported = true;
            }
        }
    }
    reported
}

#[test]
fn a_flipped_bit_is_reported_or_harmless() {
    let (rig, model) = prepare(settings());
    flip_bits(&rig, &model, |reported, harmless| harmless < reported / 3);
}

#[test]
fn a_flipped_bit_is_reported_or_harmless_where_records_are_padded() {
    let (rig, model) = prepare(OverlaySettings {
        direct_bytes_min: 3_000,
        ..settings()
    });
    flip_bits(&rig, &model, |_, _| true);
}

#[test]
fn a_flipped_bit_is_reported_or_harmless_where_all_is_encrypted() {
    let settings = OverlaySettings {
        // Heads are longer: room for the note of the last sync, without which its records pass for a torn tail.
        segment_bytes: 7_000,
        ..settings()
    };
    let (rig, model) = prepare_on(Rig::new(SIZE_BYTES, settings).encrypted());
    flip_bits(&rig, &model, |reported, harmless| harmless < reported / 3);
}

/// What is found of some bytes in an overlay's files and pages.
fn appears(rig: &Rig, wanted: &[u8]) -> bool {
    use repo::overlay::{PageKey, PageStore as _};
    let has = |bytes: &[u8]| bytes.windows(wanted.len()).any(|window| window == wanted);
    let folder = format!("overlays/{ID}");
    let mut files = rig.disk.list(folder.as_ref()).unwrap().into_iter();
    let in_files = files.any(|file| {
        let path = format!("{folder}/{}", file.name);
        has(&rig.disk.read(path.as_ref(), 1 << 20).unwrap())
    });
    let page = rig.pages.get(ID, PageKey(0)).unwrap().unwrap();
    in_files || has(&page)
}

#[test]
fn nothing_is_in_clear_where_all_is_encrypted() {
    for (rig, shows) in Rig::both(SIZE_BYTES, &settings())
        .into_iter()
        .zip([true, false])
    {
        let (rig, _) = prepare_on(rig);
        rig.open().unwrap().checkpoint().unwrap();
        assert_eq!(appears(&rig, &tagged(1, 1)[..64]), shows, "content");
        assert_eq!(appears(&rig, &tagged(3, 5)[1024..1088]), shows, "content");
        assert_eq!(appears(&rig, b"web01"), shows, "name of the workload");
        // The check of a block says whether it is one that somebody knows.
        let check = crc32c::crc32c(&tagged(5, 2)).to_le_bytes();
        assert_eq!(appears(&rig, &check), shows, "check of a block");
    }
}

#[test]
fn another_key_or_none_opens_nothing() {
    let (rig, _) = prepare_on(Rig::new(SIZE_BYTES, settings()).encrypted());
    for keys in [OverlayKeys::none(), OverlayKeys::for_tests(8)] {
        let other = Rig {
            keys,
            ..rig.clone()
        };
        assert!(other.open().is_err());
        // Nor does it make anything of the same name pass for unfinished and remove it.
        repo::overlay::finish_discards(&other.disk, &other.keys, &*other.pages).unwrap();
    }
    rig.open().unwrap();
}

#[test]
fn an_overlay_in_clear_is_refused_where_all_is_encrypted() {
    let (rig, _) = prepare(settings());
    assert!(rig.encrypted().open().is_err());
    // Its journal alone neither.
    let (rig, _) = prepare(settings());
    let (sealed, _) = prepare_on(Rig::new(SIZE_BYTES, settings()).encrypted());
    for file in rig.disk.list(format!("overlays/{ID}").as_ref()).unwrap() {
        let path = format!("overlays/{ID}/{}", file.name);
        if file.name != "overlay.json" {
            let clear = rig.disk.read(path.as_ref(), 1 << 20).unwrap();
            sealed.disk.replace(path.as_ref(), &clear).unwrap();
        }
    }
    assert!(sealed.open().unwrap_err().is_corrupt());
}

/// Opens and reads the overlay with one bit turned over, for many bits.
fn flip_bits(rig: &Rig, model: &Model, fits: impl Fn(u32, u32) -> bool) {
    let folder = format!("overlays/{ID}");
    let files = rig.disk.list(folder.as_ref()).unwrap();
    assert!(files.len() >= 4, "{files:?}");
    for with_checkpoint in [false, true] {
        if with_checkpoint {
            rig.open().unwrap().checkpoint().unwrap();
        }
        let (mut reported, mut harmless) = (0, 0);
        for file in rig.disk.list(folder.as_ref()).unwrap() {
            let path = format!("{folder}/{}", file.name);
            for byte in 0..file.length_bytes {
                // Every byte near a head, a sample of the others.
                if byte > 300 && byte % 512 > 70 && byte % 41 != 0 {
                    continue;
                }
                let forked = Rig {
                    disk: rig.disk.fork(),
                    pages: Arc::new(rig.pages.crash(u64::MAX)),
                    ..rig.clone()
                };
                assert!(forked.disk.flip_bit(path.as_ref(), byte, (byte % 8) as u8));
                match is_reported(&forked, model, &format!("{path} byte {byte}")) {
                    true => reported += 1,
                    false => harmless += 1,
                }
            }
        }
        // Without a checkpoint only what was written over, and the final note of the last sync, does not matter.
        assert!(reported > 300, "{reported} reported, {harmless} harmless");
        assert!(
            with_checkpoint || fits(reported, harmless),
            "{reported} reported, {harmless} harmless"
        );
    }
}

#[test]
fn a_lost_segment_is_reported() {
    let (rig, model) = prepare(settings());
    let folder = format!("overlays/{ID}");
    let names: Vec<String> = rig
        .disk
        .list(folder.as_ref())
        .unwrap()
        .into_iter()
        .map(|item| item.name)
        .collect();
    let (last, others) = names
        .iter()
        .filter(|name| name.starts_with("journal"))
        .collect::<Vec<_>>()
        .split_last()
        .map(|(last, others)| ((*last).clone(), others.to_vec()))
        .unwrap();
    for name in others {
        let forked = Rig {
            disk: rig.disk.fork(),
            ..rig.clone()
        };
        forked
            .disk
            .remove(format!("{folder}/{name}").as_ref())
            .unwrap();
        assert!(is_reported(&forked, &model, name));
    }
    // The last one is known to be missing through the checkpoint.
    rig.open().unwrap().checkpoint().unwrap();
    rig.disk
        .remove(format!("{folder}/{last}").as_ref())
        .unwrap();
    assert!(is_reported(&rig, &model, &last));
}

#[test]
fn damaged_pages_are_made_again_from_the_journal() {
    use repo::overlay::{PageKey, PageStore as _};
    let (rig, model) = prepare(settings());
    rig.open().unwrap().checkpoint().unwrap();
    let checkpoint = rig.pages.checkpoint(ID).unwrap().unwrap();
    for (number, key) in [PageKey(0), PageKey(2), PageKey(1 << 56)]
        .into_iter()
        .enumerate()
    {
        let page = rig.pages.get(ID, key).unwrap().unwrap();
        let forked = Rig {
            pages: Arc::new(rig.pages.crash(u64::MAX)),
            disk: rig.disk.fork(),
            ..rig.clone()
        };
        let mut damaged = page.clone();
        damaged[3] ^= 16;
        forked
            .pages
            .put(ID, &[(key, &damaged)], &checkpoint)
            .unwrap();
        is_reported(&forked, &model, &format!("page {number}"));
        assert!(!is_reported(
            &forked,
            &model,
            &format!("page {number}, opened again")
        ));
        let mut damaged = checkpoint.clone();
        damaged[7] ^= 1;
        forked.pages.put(ID, &[(key, &page)], &damaged).unwrap();
        assert!(!is_reported(&forked, &model, "checkpoint"));
    }
}

#[test]
fn an_overlay_of_a_newer_version_is_refused_by_name() {
    let (rig, _) = prepare(settings());
    let path = format!("overlays/{ID}/overlay.json");
    let text = String::from_utf8(rig.disk.read(path.as_ref(), 1 << 20).unwrap()).unwrap();
    rig.disk
        .replace(
            path.as_ref(),
            text.replacen("overlay 1 ", "overlay 2 ", 1).as_bytes(),
        )
        .unwrap();
    let error = rig.open().unwrap_err().to_string();
    assert!(error.contains("version 2"), "{error}");
}

proptest! {
    #[test]
    fn decoders_take_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        repo::overlay::fuzz::fuzz_overlay_document(&bytes);
        repo::overlay::fuzz::fuzz_overlay_formats(&bytes);
    }

    #[test]
    fn a_segment_full_of_noise_is_no_panic(noise in prop::collection::vec(any::<u8>(), 0..3000), at in 0_usize..8000) {
        let (rig, _) = prepare(settings());
        let path = format!("overlays/{ID}/journal.00000001");
        let mut bytes = rig.disk.read(path.as_ref(), 1 << 20).unwrap();
        let at = at % bytes.len();
        for (place, noise) in bytes.iter_mut().skip(at).zip(noise) {
            *place = noise;
        }
        rig.disk.replace(path.as_ref(), &bytes).unwrap();
        if let Ok(overlay) = rig.open() {
            drop(read(&overlay, 0, SIZE_BYTES as usize));
        }
    }
}
