//! Big-endian fields of CDBs, parameter lists and pages (SPC-4, 3.6).

/// The field of 16 bits at `at`; bytes that are not there read as zero.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array_at(bytes, at))
}

/// The field of 24 bits at `at`.
pub(crate) fn u24_at(bytes: &[u8], at: usize) -> u32 {
    let [one, two, three] = array_at(bytes, at);
    u32::from_be_bytes([0, one, two, three])
}

/// The field of 32 bits at `at`.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array_at(bytes, at))
}

/// The field of 64 bits at `at`.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array_at(bytes, at))
}

/// The byte at `at`.
pub(crate) fn u8_at(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// The `N` bytes at `at`; those that are not there are zero.
pub(crate) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    let there = bytes.get(at..).unwrap_or_default();
    for (to, from) in array.iter_mut().zip(there) {
        *to = *from;
    }
    array
}

/// Puts `field` into `page` at `at`.
///
/// # Panics
/// If the page is too short, which would be a fault of ours: nothing from outside decides about pages that we make.
pub(crate) fn put(page: &mut [u8], at: usize, field: &[u8]) {
    page.get_mut(at..at + field.len())
        .expect("the page has room for its fields")
        .copy_from_slice(field);
}

/// `text` in exactly `N` bytes, cut or filled with spaces (SPC-4, 4.3.1).
pub(crate) fn ascii<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    let printable = text.bytes().filter(|byte| (0x20..0x7f).contains(byte));
    for (to, from) in field.iter_mut().zip(printable) {
        *to = from;
    }
    field
}

/// A length or count that a field of 32 bits has room for; larger ones are cut to the largest.
pub(crate) fn to_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// A length or count that a field of 16 bits has room for.
pub(crate) fn to_u16(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// A length or count that a field of 8 bits has room for.
pub(crate) fn to_u8(number: usize) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

/// A number of bytes in memory.
pub(crate) fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// A number of bytes of a disk.
pub(crate) fn to_u64(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_bytes_read_as_zero() {
        assert_eq!(u32_at(&[0, 1, 2, 3, 4], 1), 0x0102_0304);
        assert_eq!(u32_at(&[1, 2], 0), 0x0102_0000);
        assert_eq!(u64_at(&[], 7), 0);
        assert_eq!(u24_at(&[9, 1, 2, 3], 1), 0x01_0203);
        assert_eq!(ascii::<4>("ab\u{7}cdef"), *b"abcd");
        assert_eq!(ascii::<4>("a"), *b"a   ");
    }
}
