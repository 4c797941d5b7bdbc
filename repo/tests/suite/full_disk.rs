//! A disk that is really full: clear errors, nothing lost that was answered, and a way out.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use repo::{
    CollectOptions, ImageBase, ImageSpec, Overlay, Point, PointKind, RepoError, Repository,
    VerifyScope, WorkloadName,
};

use crate::mounts::Mounted;
use crate::support::{noise, options, read_all};

const MEBIBYTE: usize = 1 << 20;
const RESERVE_BYTES: u64 = 16 << 20;

fn collect_options() -> CollectOptions {
    CollectOptions {
        grace: Duration::ZERO,
        reserve_bytes: RESERVE_BYTES,
        ..CollectOptions::default()
    }
}

/// Backs up a disk of noise.
fn back_up(
    repository: &Repository,
    workload: &str,
    content: &[u8],
) -> Result<Arc<Point>, RepoError> {
    let workload = WorkloadName::parse(workload)?;
    let mut backup = repository.begin(&workload, PointKind::Full)?;
    let mut writer = backup.image(&ImageSpec {
        name: "disk-0".to_owned(),
        size_bytes: content.len() as u64,
        base: ImageBase::Nothing,
    })?;
    writer.write(0, Bytes::copy_from_slice(content))?;
    backup.finish_image(writer)?;
    backup.commit()
}

fn seal(repository: &Repository, overlay: &Overlay) -> Result<Arc<Point>, RepoError> {
    let workload = &overlay.record().point.workload;
    let sealed = repository
        .begin(workload, PointKind::Sealed)
        .and_then(|mut backup| {
            backup.seal_overlay(overlay, "disk-0")?;
            backup.commit()
        });
    if sealed.is_err() {
        overlay.thaw();
    }
    sealed
}

fn read_overlay(overlay: &Overlay) -> Vec<u8> {
    let mut found = Vec::new();
    let length = u32::try_from(overlay.size_bytes()).unwrap();
    overlay.read(0, length, &mut found).unwrap();
    found.concat()
}

/// It says that there is no space, to whoever must see to that.
fn assert_full<T: std::fmt::Debug>(what: &str, outcome: Result<T, RepoError>) {
    match outcome {
        Err(error) => {
            assert!(
                error.is_full() || matches!(error, RepoError::LostRecords),
                "{what}: {error:?}"
            );
            assert_eq!(error.culprit(), repo::Culprit::Operator, "{what}");
        }
        Ok(done) => panic!("{what} went well on a full disk: {done:?}"),
    }
}

fn reserve_length(root: &Path) -> Option<u64> {
    let found = std::fs::metadata(root.join("reserve")).ok()?;
    Some(found.len())
}

/// Takes all space that is left, in ever smaller files, until not even one of these fits.
fn fill(mounted: &Mounted) {
    let block = vec![0xA5; MEBIBYTE];
    let mut number = 0;
    for piece in [MEBIBYTE, 64 << 10, 4096] {
        loop {
            number += 1;
            let path = mounted.root().join(format!("filler-{number}"));
            if path.exists() {
                continue;
            }
            if std::fs::write(&path, &block[..piece]).is_err() {
                drop(std::fs::remove_file(&path));
                break;
            }
        }
    }
}

/// Gives back what [`fill`] took.
fn clear(mounted: &Mounted) {
    for entry in std::fs::read_dir(mounted.root()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("filler-") {
            std::fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn a_full_disk_loses_nothing_and_the_reserve_leads_out() {
    let Some(mounted) = Mounted::ext4(160) else {
        return;
    };
    let root = mounted.root().join("repository");
    Repository::create(&root, &repo::CreateOptions::default()).unwrap();
    let repository = Repository::open(&root, &options()).unwrap();
    repository.make_reserve(RESERVE_BYTES).unwrap();
    assert_eq!(reserve_length(&root), Some(RESERVE_BYTES));
    let (kept, going) = (noise(1, 8 * MEBIBYTE), noise(2, 24 * MEBIBYTE));
    let kept_point = back_up(&repository, "web", &kept).unwrap();
    let going_point = back_up(&repository, "db", &going).unwrap();
    let overlay = repository.create_overlay(&kept_point, 0).unwrap();
    let mut session = kept.clone();
    let change = noise(3, MEBIBYTE);
    overlay
        .write(0, &[Bytes::copy_from_slice(&change)], false)
        .unwrap();
    overlay.flush().unwrap();
    session[..MEBIBYTE].copy_from_slice(&change);

    fill(&mounted);
    assert_full(
        "a backup",
        back_up(&repository, "web", &noise(4, 4 * MEBIBYTE)),
    );
    let more = [Bytes::from(noise(5, 2 * MEBIBYTE))];
    assert_full("a session's write", overlay.write(4 << 20, &more, true));
    assert_full("a seal", seal(&repository, &overlay));
    assert_eq!(repository.points(None).len(), 2, "nothing in part is shown");
    assert!(read_all(&repository.image(&kept_point, 0).unwrap()) == kept);
    assert!(read_overlay(&overlay)[..4 * MEBIBYTE] == session[..4 * MEBIBYTE]);

    // At 100 per cent, with what the attempts have left.
    fill(&mounted);
    repository.expire(&going_point.name).unwrap();
    let report = repository
        .collect(&collect_options(), &mut |_| ControlFlow::Continue(()))
        .unwrap();
    assert!(report.reserve_used, "{report:?}");
    assert!(report.removed_bytes >= 24 << 20, "{report:?}");

    // There is room again: for a new reserve, once the rest is cleared, and for everything else.
    clear(&mounted);
    repository
        .collect(&collect_options(), &mut |_| ControlFlow::Continue(()))
        .unwrap();
    assert_eq!(reserve_length(&root), Some(RESERVE_BYTES));
    let later = noise(6, 4 * MEBIBYTE);
    let later_point = back_up(&repository, "web", &later).unwrap();
    drop(overlay);
    drop(repository);

    let repository = Repository::open(&root, &options()).unwrap();
    let id = repository.overlays().unwrap()[0].id;
    let overlay = repository.open_overlay(id).unwrap();
    let found = read_overlay(&overlay);
    assert!(
        found[..4 * MEBIBYTE] == session[..4 * MEBIBYTE],
        "what was flushed is there"
    );
    let written = Bytes::from(noise(7, MEBIBYTE));
    overlay.write(4 << 20, &[written], true).unwrap();
    let session = read_overlay(&overlay);
    let sealed = seal(&repository, &overlay).unwrap();
    for (point, content) in [
        (&kept_point, &kept),
        (&later_point, &later),
        (&sealed, &session),
    ] {
        let image = repository.image(point, 0).unwrap();
        assert!(read_all(&image) == *content, "{}", point.name);
    }
    let verified = repository
        .verify(&VerifyScope::All, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    assert!(verified.is_sound(), "{verified:?}");
}

#[test]
fn a_full_disk_is_opened_by_the_reserve_and_without_one_says_what_to_do() {
    let Some(mounted) = Mounted::ext4(160) else {
        return;
    };
    let root = mounted.root().join("repository");
    Repository::create(&root, &repo::CreateOptions::default()).unwrap();
    let repository = Repository::open(&root, &options()).unwrap();
    repository.make_reserve(RESERVE_BYTES).unwrap();
    let content = noise(1, 8 * MEBIBYTE);
    let point = back_up(&repository, "web", &content).unwrap();
    fill(&mounted);
    // Left as a kill would leave it, and in good order.
    drop(repository);
    fill(&mounted);
    for _ in 0..2 {
        let repository = Repository::open(&root, &options()).unwrap();
        assert_eq!(reserve_length(&root), None);
        assert!(read_all(&repository.image(&point, 0).unwrap()) == content);
        repository.close().unwrap();
    }
    fill(&mounted);
    let refused = Repository::open(&root, &options()).unwrap_err();
    assert!(matches!(refused, RepoError::NoRoom { .. }), "{refused:?}");
    let text = refused.to_string();
    assert!(
        text.contains("full") && text.contains("holdfast rescue"),
        "{text}"
    );
    clear(&mounted);
    let repository = Repository::open(&root, &options()).unwrap();
    assert!(read_all(&repository.image(&point, 0).unwrap()) == content);
}
