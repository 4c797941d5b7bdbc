//! The engine from outside: round trips, models, crashes, damage.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod catalog_readers;
mod collect;
mod collect_crash;
mod crash;
mod damage;
mod encryption;
mod excluded;
mod fixture;
mod full_disk;
mod image;
mod keyless;
mod locks;
mod model;
mod mounts;
mod overlay_copy;
mod overlay_crash;
mod overlay_damage;
mod overlay_model;
mod overlay_rig;
mod overlay_threads;
mod parity;
mod rescue;
mod rescue_overlays;
mod stream;
mod support;
mod watch;
mod worn_disk;
