//! Which clusters are in use, proven by copying nothing else.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use guestfs::Leavable;
use tempfile::tempdir;

use super::content::mixed;
use super::programs::{Ntfs3g, mkntfs};
use crate::image::{have, run, tree, volume};
use crate::manifest::{Manifest, compare, of_tree};

/// Copies what is in use to an image that is otherwise full of rubbish: it must be as good as the original.
pub(crate) fn check_used_copy(image: &Path, expected: &Manifest, what: &str) {
    let copied = image.with_extension("used");
    let source = fs::read(image).unwrap();
    let mut copy = vec![0xA5; source.len()];
    let mut used = 0;
    for range in volume(image).allocated().unwrap() {
        let range = range.unwrap();
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        used += range.len();
        copy[range.clone()].copy_from_slice(&source[range]);
    }
    println!("{what}: {used} of {} bytes are in use", source.len());
    assert!(used < source.len() * 9 / 10, "{what}: {used}");
    fs::write(&copied, copy).unwrap();
    compare(&of_tree(&*tree(&copied)), expected, what);
    run(Command::new("ntfsfix").arg("-n").arg(&copied));
    fs::remove_file(copied).unwrap();
}

#[test]
fn what_the_bitmap_forgot_is_in_use_all_the_same() {
    if !have("mkntfs") {
        return;
    }
    let home = tempdir().unwrap();
    let image = home.path().join("image");
    let Some(mut bytes) = super::damage::image(home.path(), &["-c", "4096"]) else {
        return;
    };
    let before: Vec<_> = volume(&image)
        .allocated()
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let said = run(Command::new("ntfsinfo").args(["-v", "-i", "6"]).arg(&image));
    let run_line = said
        .lines()
        .find(|line| line.contains("0x0") && line.contains("0x1"));
    println!("{run_line:?}");
    // The bitmap is small and lies where the cluster is all of its bits: found by what it must say of itself.
    let bits = expected_bits(&before, bytes.len());
    let at = bytes.windows(bits.len()).position(|window| window == bits);
    let at = at.expect("the bitmap is where it can be found");
    bytes[at..at + bits.len()].fill(0);
    fs::write(&image, &bytes).unwrap();
    let after: Vec<_> = volume(&image)
        .allocated()
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(before, after);
}

/// The bitmap that goes with ranges in use.
fn expected_bits(used: &[std::ops::Range<u64>], length: usize) -> Vec<u8> {
    let mut bits = vec![0_u8; (length / 4096).div_ceil(8)];
    for range in used {
        for cluster in range.start / 4096..range.end / 4096 {
            let cluster = usize::try_from(cluster).unwrap();
            bits[cluster / 8] |= 1 << (cluster % 8);
        }
    }
    // The last sector is no cluster of the filesystem.
    bits.truncate(bits.len() - 1);
    bits
}

#[test]
fn what_windows_makes_again_can_be_left_out() {
    if !have("mkntfs") {
        return;
    }
    let home = tempdir().unwrap();
    let image = home.path().join("image");
    mkntfs(&image, 32, &["-c", "4096"]);
    let Some(mount) = Ntfs3g::new(&image, "noatime") else {
        return;
    };
    let root = mount.path();
    fs::write(root.join("PageFile.sys"), vec![1; 3 << 20]).unwrap();
    fs::write(root.join("swapfile.sys"), vec![2; 1 << 20]).unwrap();
    fs::write(root.join("hiberfil.sys"), vec![0; 2 << 20]).unwrap();
    let bin = root.join("$RECYCLE.BIN/S-1-5-21-1");
    fs::create_dir_all(&bin).unwrap();
    fs::write(bin.join("$R12345.bin"), mixed(500_000)).unwrap();
    fs::write(bin.join("$Rlinked.bin"), mixed(300_000)).unwrap();
    fs::hard_link(bin.join("$Rlinked.bin"), root.join("kept")).unwrap();
    fs::create_dir(root.join("folder")).unwrap();
    fs::write(root.join("folder/pagefile.sys"), vec![3; 1 << 20]).unwrap();
    drop(mount);
    let sums = || {
        let mut sums = std::collections::BTreeMap::new();
        for (reason, range) in volume(&image).leavable().unwrap() {
            *sums.entry(reason).or_insert(0) += range.end - range.start;
        }
        sums
    };
    let expected = [
        (Leavable::PageFile, 4 << 20),
        (Leavable::Hibernation, 2 << 20),
        (Leavable::RecycleBin, 123 * 4096),
    ];
    assert_eq!(sums(), expected.into());
    let tree = tree(&image);
    let file = File::options().write(true).open(&image).unwrap();
    let before = of_tree(&*tree);
    for (_, range) in volume(&image).leavable().unwrap() {
        let length = usize::try_from(range.end - range.start).unwrap();
        file.write_all_at(&vec![0xEE; length], range.start).unwrap();
    }
    let after = of_tree(&*tree);
    for (path, object) in &before {
        let name = String::from_utf8_lossy(path);
        let differs = after[path] != *object;
        let is_left = ["/PageFile.sys", "/swapfile.sys", "/hiberfil.sys"].contains(&&*name)
            || name.ends_with("$R12345.bin");
        assert_eq!(differs, is_left, "{name}");
    }
    // What Windows would wake from is kept.
    let mount = Ntfs3g::new(&image, "noatime,remove_hiberfile").unwrap();
    fs::write(
        mount.path().join("hiberfil.sys"),
        [&b"HIBR"[..], &[9; 100_000]].concat(),
    )
    .unwrap();
    drop(mount);
    assert!(!sums().contains_key(&Leavable::Hibernation));
}
