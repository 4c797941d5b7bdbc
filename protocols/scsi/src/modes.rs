//! Mode parameters: the little that initiators may set (SPC-4, 7.5; SBC-3, 6.5).

use std::sync::atomic::{AtomicU8, Ordering};

use smallvec::SmallVec;

/// The mode pages of a unit. Each has all its values in a few bits, so that the data path reads them without a lock.
#[derive(Debug)]
pub(crate) struct Modes {
    set: AtomicU8,
}

/// PAGE CONTROL: which values are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PageControl {
    Current,
    Changeable,
    Default,
}

/// A mode page without its first two bytes.
pub(crate) type PageContent = SmallVec<[u8; 18]>;

/// The pages there are, in the order in which they are returned.
pub(crate) const PAGES: [u8; 4] = [ERROR_RECOVERY, CACHING, CONTROL, EXCEPTIONS];

const ERROR_RECOVERY: u8 = 0x01;
const CACHING: u8 = 0x08;
const CONTROL: u8 = 0x0a;
const EXCEPTIONS: u8 = 0x1c;

const WRITE_CACHE: u8 = 1;
const DESCRIPTOR_SENSE: u8 = 2;
const WRITE_PROTECT: u8 = 4;

/// A change is volatile, so writes are cached until a flush, unless an initiator says otherwise.
const DEFAULTS: u8 = WRITE_CACHE;
const ALL: u8 = WRITE_CACHE | DESCRIPTOR_SENSE | WRITE_PROTECT;

impl Modes {
    pub(crate) fn new() -> Self {
        Self {
            set: AtomicU8::new(DEFAULTS),
        }
    }

    /// A copy that is changed before it is taken over.
    pub(crate) fn copy_of(other: &Self) -> Self {
        Self {
            set: AtomicU8::new(other.set.load(Ordering::Acquire)),
        }
    }

    /// Becomes what `other` is.
    pub(crate) fn take_over(&self, other: &Self) {
        self.set
            .store(other.set.load(Ordering::Acquire), Ordering::Release);
    }

    /// WCE: whether writes may be answered before they are on stable storage.
    pub(crate) fn write_cache(&self) -> bool {
        self.has(WRITE_CACHE)
    }

    /// D_SENSE: whether sense data is in descriptors.
    pub(crate) fn descriptor_sense(&self) -> bool {
        self.has(DESCRIPTOR_SENSE)
    }

    /// SWP: whether the initiators protect the unit from writes.
    pub(crate) fn write_protect(&self) -> bool {
        self.has(WRITE_PROTECT)
    }

    /// Everything as it was at first.
    pub(crate) fn reset(&self) {
        self.set.store(DEFAULTS, Ordering::Release);
    }

    /// The content of `page`; `None` if there is no such page.
    pub(crate) fn page(&self, page: u8, control: PageControl) -> Option<PageContent> {
        let set = match control {
            PageControl::Current => self.set.load(Ordering::Acquire),
            PageControl::Changeable => ALL,
            PageControl::Default => DEFAULTS,
        };
        content(page, set, control != PageControl::Changeable)
    }

    /// Takes the values of `page` over. `Err` has the first byte that must not be what it is, counted from the page's
    /// beginning; else whether anything changed.
    pub(crate) fn change(&self, page: u8, wanted: &[u8]) -> Result<bool, u16> {
        let current = self.page(page, PageControl::Current).ok_or(0_u16)?;
        let changeable = self.page(page, PageControl::Changeable).ok_or(0_u16)?;
        if wanted.len() != current.len() {
            return Err(1);
        }
        let fields = current.iter().zip(&changeable).zip(wanted).zip(2_u16..);
        for (((current, changeable), wanted), at) in fields {
            if (current ^ wanted) & !changeable != 0 {
                return Err(at);
            }
        }
        let asked = |at: usize, mask: u8| wanted.get(at).is_some_and(|byte| byte & mask != 0);
        let mut changed = false;
        for (of, at, mask, flag) in SETTINGS {
            if of == page {
                changed |= self.set_flag(flag, asked(at, mask));
            }
        }
        Ok(changed)
    }

    fn has(&self, flag: u8) -> bool {
        self.set.load(Ordering::Acquire) & flag != 0
    }

    /// Sets or clears `flag`; whether that changed it.
    fn set_flag(&self, flag: u8, up: bool) -> bool {
        let before = if up {
            self.set.fetch_or(flag, Ordering::AcqRel)
        } else {
            self.set.fetch_and(!flag, Ordering::AcqRel)
        };
        (before & flag != 0) != up
    }
}

/// Where each setting stands: page, byte of its content, bit, and ours.
const SETTINGS: [(u8, usize, u8, u8); 3] = [
    (CACHING, 0, 0x04, WRITE_CACHE),
    (CONTROL, 0, 0x04, DESCRIPTOR_SENSE),
    (CONTROL, 2, 0x08, WRITE_PROTECT),
];

/// A page's content with the settings in `set`, and with what is fixed if `fixed`.
fn content(page: u8, set: u8, fixed: bool) -> Option<PageContent> {
    let mut bytes = PageContent::new();
    match page {
        // AWRE and ARRE: bad places are replaced by themselves.
        ERROR_RECOVERY => bytes.extend_from_slice(&[0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        CACHING => bytes.resize(18, 0),
        // Unrestricted reordering, and no bound on how long BUSY may last.
        CONTROL => bytes.extend_from_slice(&[0, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0]),
        // DEXCPT: nothing is reported this way.
        EXCEPTIONS => bytes.extend_from_slice(&[0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        _ => return None,
    }
    if !fixed {
        bytes.fill(0);
    }
    for (of, at, mask, flag) in SETTINGS {
        if of == page
            && set & flag != 0
            && let Some(byte) = bytes.get_mut(at)
        {
            *byte |= mask;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_changeable_changes() {
        let modes = Modes::new();
        assert!(modes.write_cache() && !modes.descriptor_sense() && !modes.write_protect());
        let mut control = modes.page(CONTROL, PageControl::Current).unwrap();
        control[0] |= 0x04;
        assert_eq!(modes.change(CONTROL, &control), Ok(true));
        assert_eq!(modes.change(CONTROL, &control), Ok(false), "again");
        assert!(modes.descriptor_sense());
        control[1] = 0;
        assert_eq!(modes.change(CONTROL, &control), Err(3));
        assert_eq!(modes.change(CONTROL, &control[1..]), Err(1));
        assert_eq!(modes.change(0x3e, &control), Err(0));
        let mut caching = modes.page(CACHING, PageControl::Default).unwrap();
        assert_eq!(caching[0], 0x04);
        caching[0] = 0;
        assert_eq!(modes.change(CACHING, &caching), Ok(true));
        assert!(!modes.write_cache() && modes.descriptor_sense());
        modes.reset();
        assert!(modes.write_cache() && !modes.descriptor_sense());
    }
}
