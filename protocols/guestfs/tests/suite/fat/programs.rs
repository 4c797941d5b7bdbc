//! The programs of dosfstools and mtools.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::image::run;

/// Makes a filesystem of so many KiB with the content of `folder`.
pub(crate) fn mkfs_fat(image: &Path, kib: u64, folder: Option<&Path>, options: &str) {
    drop(fs::remove_file(image));
    let mut command = Command::new("mkfs.fat");
    command.arg("-C").args(options.split_whitespace());
    run(command.arg(image).arg(kib.to_string()));
    if let Some(folder) = folder {
        let entries = fs::read_dir(folder).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        mtools("mcopy", image, &["-s", "-m", "-Q"])
            .args(paths)
            .arg("::/")
            .output()
            .map(|output| assert!(output.status.success(), "{output:?}"))
            .unwrap();
    }
}

/// A program of mtools on an image, with names in UTF-8 and times in UTC.
pub(crate) fn mtools(program: &str, image: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
    command.env("MTOOLS_SKIP_CHECK", "1");
    let settings = image.with_extension("mtoolsrc");
    fs::write(&settings, "default_codepage=437\n").unwrap();
    command.env("MTOOLSRC", settings);
    command.arg("-i").arg(image).args(options);
    command
}

/// What fsck.fat says of an image.
pub(crate) fn checked(image: &Path) -> (Option<i32>, String) {
    let output = Command::new("fsck.fat")
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
