//! Images by their bytes, to make what no program makes.

/// An image with a folder at the top of which only the records are given, from sector 20 on; content of files can lie
/// from sector 30 on.
pub(crate) fn image(records: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![0; 40 * 2048];
    let top = record(b"\0", 20, 2048, 2, &[]);
    let descriptor = &mut bytes[16 * 2048..17 * 2048];
    descriptor[0] = 1;
    descriptor[1..7].copy_from_slice(b"CD001\x01");
    descriptor[80..84].copy_from_slice(&40_u32.to_le_bytes());
    descriptor[128..130].copy_from_slice(&2048_u16.to_le_bytes());
    descriptor[156..156 + 34].copy_from_slice(&top[..34]);
    let end = &mut bytes[17 * 2048..18 * 2048];
    end[..7].copy_from_slice(b"\xFFCD001\x01");
    let mut at = 20 * 2048;
    for record in records {
        bytes[at..at + record.len()].copy_from_slice(record);
        at += record.len();
    }
    for sector in 30..40 {
        let value = u8::try_from(sector).unwrap();
        bytes[sector * 2048..(sector + 1) * 2048].fill(value);
    }
    bytes
}

/// A record with what is to follow its name.
pub(crate) fn record(name: &[u8], block: u32, size: u32, flags: u8, system_use: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 33];
    bytes[2..6].copy_from_slice(&block.to_le_bytes());
    bytes[10..14].copy_from_slice(&size.to_le_bytes());
    bytes[18..25].copy_from_slice(&[124, 2, 29, 12, 34, 56, 0]);
    bytes[25] = flags;
    bytes[32] = u8::try_from(name.len()).unwrap();
    bytes.extend(name);
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    bytes.extend(system_use);
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    bytes[0] = u8::try_from(bytes.len()).unwrap();
    bytes
}

/// An entry behind a name.
pub(crate) fn entry(letters: &[u8; 2], content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len() + 4).unwrap();
    [&letters[..], &[length, 1], content].concat()
}

/// A number in both orders of bytes.
pub(crate) fn both(number: u32) -> Vec<u8> {
    [number.to_le_bytes(), number.to_be_bytes()].concat()
}
