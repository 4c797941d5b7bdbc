//! What programs of earlier days wrote is read as it was meant.

use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use repo::{CHUNK_BYTES, Image, OpenOptions, Repository, Secret};
use serde_json::Value;

use crate::support::{back_up, noise, options, read_all};

/// Unpacks a stored repository into `folder` and gives what must be read from it.
pub(crate) fn unpack(fixture: &str, folder: &Path) -> Value {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures")
        .join(fixture);
    let status = Command::new("tar")
        .arg("-xzf")
        .arg(archive)
        .arg("-C")
        .arg(folder)
        .status();
    assert!(status.unwrap().success(), "tar unpacks {fixture}");
    serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap()
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap()
}

/// BLAKE3 of every chunk that is not zero, each behind its number.
fn data_hash(image: &Image) -> String {
    let mut hasher = blake3::Hasher::new();
    image
        .restore(0..image.size_bytes(), &mut |offset, bytes| {
            for (number, chunk) in bytes.chunks(CHUNK_BYTES).enumerate() {
                if chunk.iter().any(|byte| *byte != 0) {
                    let index = offset / CHUNK_BYTES as u64 + number as u64;
                    hasher.update(&index.to_le_bytes());
                    hasher.update(chunk);
                }
            }
            Ok(())
        })
        .unwrap();
    hasher.finalize().to_string()
}

/// Compares all that can be read with what was expected when the repository was made.
pub(crate) fn check_points(repository: &Repository, expected: &Value) {
    let points = repository.points(None);
    let names: Vec<_> = points.iter().map(|point| point.name.to_string()).collect();
    let wanted: Vec<_> = list(&expected["points"])
        .iter()
        .map(|point| point["point"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, wanted);
    for (point, wanted) in points.iter().zip(list(&expected["points"])) {
        assert_eq!(point.configuration, wanted["configuration"]);
        assert_eq!(point.images.len(), list(&wanted["disks"]).len());
        for (number, disk) in list(&wanted["disks"]).iter().enumerate() {
            let what = format!("{} disk {number}", point.name);
            let image = repository.image(point, number).unwrap();
            assert_eq!(point.images[number].name, disk["name"], "{what}");
            assert_eq!(image.size_bytes(), disk["size_bytes"], "{what}");
            assert_eq!(data_hash(&image), disk["data_blake3"], "{what}");
            // Those of before there was such a thing say nothing of it.
            let excluded = repository.excluded(point, number).unwrap();
            let found: Vec<_> = excluded
                .ranges()
                .iter()
                .map(|range| [range.start, range.end])
                .collect();
            let wanted = disk.get("excluded").cloned().unwrap_or_default();
            let wanted: Option<Vec<[u64; 2]>> = serde_json::from_value(wanted).unwrap();
            assert_eq!(found, wanted.unwrap_or_default(), "{what}");
            if let Some(hash) = disk["blake3"].as_str() {
                let whole = blake3::hash(&read_all(&image)).to_string();
                assert_eq!(whole, hash, "{what}");
            }
        }
        assert_eq!(point.streams.len(), list(&wanted["streams"]).len());
        for stream in list(&wanted["streams"]) {
            let name = stream["name"].as_str().unwrap();
            let mut bytes = Vec::new();
            let mut reader = repository.stream(point, name).unwrap();
            reader.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len() as u64, stream["size_bytes"], "{name}");
            let hash = blake3::hash(&bytes).to_string();
            assert_eq!(hash, stream["blake3"], "{} {name}", point.name);
        }
    }
}

fn check_overlays(repository: &Repository, expected: &Value) {
    let records = repository.overlays().unwrap();
    assert_eq!(records.len(), list(&expected["overlays"]).len());
    for wanted in list(&expected["overlays"]) {
        let id = wanted["overlay"].as_str().unwrap().parse().unwrap();
        let overlay = repository.open_overlay(id).unwrap();
        assert_eq!(overlay.record().point.to_string(), wanted["point"]);
        let mut pieces = Vec::new();
        let length = u32::try_from(overlay.size_bytes()).unwrap();
        overlay.read(0, length, &mut pieces).unwrap();
        assert_eq!(blake3::hash(&pieces.concat()).to_string(), wanted["blake3"]);
    }
}

#[test]
fn a_repository_of_format_version_1_is_read_and_written_on() {
    let folder = tempfile::tempdir().unwrap();
    let expected = unpack("repository-v1.tar.gz", folder.path());
    let root = folder.path().join("repository");
    let repository = Repository::open(&root, &options()).unwrap();
    assert_eq!(repository.uuid().to_string(), expected["repository"]);
    check_points(&repository, &expected);
    check_overlays(&repository, &expected);
    let report = repository
        .verify(&repo::VerifyScope::All, &mut |_| {
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert!(report.is_sound(), "{report:?}");

    // It goes on: numbers of expired points are not given again, and what is stored is not stored twice.
    let before = repository.points(None).len();
    let point = back_up(
        &repository,
        1 << 20,
        repo::ImageBase::Nothing,
        &[(0, noise(1, 512))],
    );
    let highest = list(&expected["points"])
        .iter()
        .filter_map(|point| point["point"].as_str()?.strip_prefix("web@")?.parse().ok())
        .max();
    assert_eq!(point.name.sequence, highest.unwrap_or(0_u64) + 1);
    assert_eq!(repository.points(None).len(), before + 1);
}

#[test]
fn stretches_that_were_left_out_are_read_and_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let expected = unpack("repository-v1-excluded.tar.gz", folder.path());
    let root = folder.path().join("repository");
    let repository = Repository::open(&root, &options()).unwrap();
    check_points(&repository, &expected);
    let second = repository.point(&"web@2".parse().unwrap()).unwrap();
    let left_out = repository.excluded(&second, 0).unwrap();
    assert_eq!(left_out.total_bytes(), (20 << 20) + 1024);
    let next = back_up(
        &repository,
        66 << 20,
        repo::ImageBase::Parent,
        &[(2 << 20, noise(1, 512))],
    );
    let left_out = repository.excluded(&next, 0).unwrap();
    assert!(left_out.ranges().len() > 2, "{left_out:?}");
}

#[test]
fn overlays_with_copies_are_read_and_written_on() {
    for (fixture, is_encrypted) in [
        ("repository-v1-copies.tar.gz", false),
        ("repository-v1-encrypted-copies.tar.gz", true),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let expected = unpack(fixture, folder.path());
        let text = expected["secrets"]["passphrase"].as_str();
        assert_eq!(text.is_some(), is_encrypted);
        let open = OpenOptions {
            secret: text.map(|text| Secret::from_text(text.as_bytes()).unwrap()),
            ..options()
        };
        let root = folder.path().join("repository");
        let repository = Repository::open(&root, &open).unwrap();
        check_overlays(&repository, &expected);
        let id = list(&expected["overlays"])[0]["overlay"].as_str().unwrap();
        let overlay = repository.open_overlay(id.parse().unwrap()).unwrap();
        assert!(overlay.copy(40 << 20, 5 << 20, 1 << 20, true).unwrap());
        let (mut copied, mut original) = (Vec::new(), Vec::new());
        overlay.read(40 << 20, 1 << 20, &mut copied).unwrap();
        overlay.read(5 << 20, 1 << 20, &mut original).unwrap();
        assert_eq!(copied.concat(), original.concat());
    }
}

#[test]
fn an_encrypted_repository_is_read_with_either_of_its_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let expected = unpack("repository-v1-encrypted.tar.gz", folder.path());
    let root = folder.path().join("repository");
    for name in ["passphrase", "key"] {
        let text = expected["secrets"][name].as_str().unwrap();
        let options = OpenOptions {
            secret: Some(Secret::from_text(text.as_bytes()).unwrap()),
            ..options()
        };
        let repository = Repository::open(&root, &options).unwrap();
        check_points(&repository, &expected);
        let report = repository
            .verify(&repo::VerifyScope::All, &mut |_| {
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        assert!(report.is_sound(), "{report:?}");
    }
}

#[test]
fn an_encrypted_repository_of_format_version_1_is_read_with_its_marks() {
    let folder = tempfile::tempdir().unwrap();
    let expected = unpack("repository-v1-marks.tar.gz", folder.path());
    let root = folder.path().join("repository");
    assert!(Repository::open(&root, &options()).is_err());
    let secret = Secret::passphrase("correct horse battery staple").unwrap();
    let open = OpenOptions {
        secret: Some(secret),
        ..options()
    };
    let repository = Repository::open(&root, &open).unwrap();
    assert_eq!(repository.uuid().to_string(), expected["repository"]);
    check_points(&repository, &expected);
    for (name, wanted) in expected["marks"].as_object().unwrap() {
        let name = name.parse().unwrap();
        let marks = repository.marks(&name);
        assert_eq!(marks.damaged, None);
        assert_eq!(marks.starred, wanted["starred"]);
        let until: Vec<_> = marks.locks.iter().map(|lock| lock.until.0).collect();
        let wanted = list(&wanted["locks"]).iter();
        let wanted: Vec<_> = wanted
            .map(|lock| lock["until_unix_nanoseconds"].as_u64().unwrap())
            .collect();
        assert_eq!(until, wanted, "{name}");
        assert_eq!(
            repository.expire(&name).is_err(),
            marks.starred || !until.is_empty()
        );
    }
}
