//! Alerts about what guards restore points: locks, their authority, key slots. An owner should hear of each change of
//! these from somewhere else than from whoever made it.

use repo::PointName;

use super::{AlertKind, News};

/// A lock was lifted before its time.
pub(crate) fn lock_lifted(point: &PointName) -> News {
    News {
        kind: AlertKind::LockLifted,
        subject: point.to_string(),
        message: format!("the lock of {point} was lifted with a one-time code"),
        mend: "dismiss this if it was meant to be; else lock the point again, and find out who has codes"
            .to_owned(),
    }
}

/// A lock authority was made, or another one in its place.
pub(crate) fn authority_made() -> News {
    News {
        kind: AlertKind::LockAuthority,
        subject: "lock authority".to_owned(),
        message: "a secret for the codes that lift locks was made".to_owned(),
        mend: "dismiss this if it was meant to be; else find out who has the daemon's token: no lock that was there before yields to a first authority".to_owned(),
    }
}

/// A code for the lock authority did not fit, or came while none was taken.
pub(crate) fn wrong_code() -> News {
    News {
        kind: AlertKind::WrongCode,
        subject: "lock authority".to_owned(),
        message: "a wrong code for the lock authority".to_owned(),
        mend: "dismiss this if somebody mistyped; else somebody with the daemon's token guesses: change the token"
            .to_owned(),
    }
}

/// A key slot was added, changed or removed.
pub(crate) fn key_slot_changed(slot: &str, what: &str) -> News {
    News {
        kind: AlertKind::KeySlot,
        subject: format!("keys/{slot}"),
        message: format!("key slot {slot} {what}"),
        mend: "dismiss this if it was meant to be; else somebody else can open the repository: see `holdfast key list`"
            .to_owned(),
    }
}
