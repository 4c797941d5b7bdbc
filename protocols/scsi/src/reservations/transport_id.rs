//! TransportIDs of iSCSI initiator ports (SPC-4, 7.6.4.6).

use crate::sense::Sense;
use crate::wire;

/// The TransportID of an initiator port. A name with an ISID (`NAME,i,0xISID`) is a port's, one without a device's.
pub(crate) fn encode(name: &str) -> Vec<u8> {
    let format = if name.contains(SEPARATOR) { 0x40 } else { 0 };
    let mut id = vec![format | ISCSI, 0, 0, 0];
    id.extend(name.bytes().take(NAME_BYTES_MAX));
    let length = (id.len() + 1).next_multiple_of(4).max(LENGTH_MIN);
    id.resize(length, 0);
    let additional = wire::to_u16(id.len() - 4);
    wire::put(&mut id, 2, &additional.to_be_bytes());
    id
}

/// Reads the TransportID at the beginning of `bytes`; gives the name and how many bytes it takes. `at` is where it stands
/// in its parameter list.
pub(crate) fn decode(bytes: &[u8], at: u16) -> Result<(String, usize), Sense> {
    let bad = |field: u16| Sense::invalid_field_in_parameters(at.saturating_add(field), None);
    let format = wire::u8_at(bytes, 0);
    if format & 0x3f != ISCSI || format >> 6 > 1 {
        return Err(bad(0));
    }
    let length = 4 + usize::from(wire::u16_at(bytes, 2));
    let name = bytes.get(4..length).ok_or(bad(2))?;
    if length < LENGTH_MIN || !length.is_multiple_of(4) {
        return Err(bad(2));
    }
    let end = name.iter().position(|&byte| byte == 0).ok_or(bad(4))?;
    let text = name.get(..end).unwrap_or_default();
    let text = std::str::from_utf8(text).map_err(|_| bad(4))?;
    let is_port = text.contains(SEPARATOR);
    if text.is_empty() || text.len() > NAME_BYTES_MAX || is_port != (format >> 6 == 1) {
        return Err(bad(4));
    }
    Ok((text.to_owned(), length))
}

const ISCSI: u8 = 0x05;
const SEPARATOR: &str = ",i,0x";
const LENGTH_MIN: usize = 24;
/// 223 of an iSCSI name, 5 of the separator, 12 of the ISID.
pub(crate) const NAME_BYTES_MAX: usize = 240;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for name in ["iqn.2026-01.org.example:a", "iqn.x:b,i,0x00023d000001", "a"] {
            let id = encode(name);
            assert_eq!(id.len() % 4, 0);
            assert_eq!(decode(&id, 0), Ok((name.to_owned(), id.len())));
        }
    }

    #[test]
    fn what_is_no_iscsi_name_is_refused() {
        let good = encode("iqn.x:b,i,0x00023d000001");
        for (at, byte) in [
            (0, 0x46),
            (0, 0x85),
            (0, 0x05),
            (2, 0xff),
            (3, 3),
            (4, 0),
            (5, 0xff),
        ] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert!(decode(&bad, 24).is_err(), "byte {at} as {byte:#x}");
        }
        assert!(decode(&good[..10], 24).is_err());
        assert!(decode(&[], 24).is_err());
    }
}
