//! Bytes of a stripe from the rest of its row.
//!
//! The first parity is the sum of the stripes of data, the second their sum with the powers of 2 as factors, both in the
//! field of 256 elements whose polynomial is 0x11D.

use super::chunk::{Parity, Row, Stripe};
use crate::GuestError;
use crate::layers::galois::{add_multiple, inverse, multiply, power, scale};

/// Makes the wanted stripe of `row` with what `read` gives.
pub(super) fn rebuild(
    row: &Row,
    length: usize,
    read: &dyn Fn(&Stripe) -> Result<Vec<u8>, GuestError>,
) -> Result<Vec<u8>, GuestError> {
    let data = row.stripes.len() - row.parities;
    let needs_first = row.from != Parity::Second;
    let needs_second = row.from != Parity::First;
    let mut first = vec![0; length];
    let mut second = vec![0; length];
    for (index, stripe) in row.stripes.iter().enumerate() {
        let (to_first, to_second) = match index.checked_sub(data) {
            None if index == row.wanted => continue,
            None if row.from == (Parity::Both { without: index }) => continue,
            None => (needs_first, needs_second),
            Some(0) => (needs_first, false),
            Some(_) => (false, needs_second),
        };
        if !to_first && !to_second {
            continue;
        }
        let bytes = read(stripe)?;
        let factor = if index < data { power(index) } else { 1 };
        if to_first {
            add_multiple(&mut first, &bytes, 1);
        }
        if to_second {
            add_multiple(&mut second, &bytes, factor);
        }
    }
    Ok(match row.from {
        Parity::First => first,
        Parity::Second => scaled(&second, inverse(power(row.wanted))),
        // x + y = first and ax + by = second, so x = (b * first + second) / (a + b).
        Parity::Both { without } => {
            let (a, b) = (power(row.wanted), power(without));
            let divisor = inverse(a ^ b);
            let mut wanted = scaled(&second, divisor);
            add_multiple(&mut wanted, &first, multiply(b, divisor));
            wanted
        }
    })
}

fn scaled(bytes: &[u8], factor: u8) -> Vec<u8> {
    let mut result = bytes.to_vec();
    scale(&mut result, factor);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_missing_comes_back() {
        let data: Vec<Vec<u8>> = (0..5_u8)
            .map(|index| {
                (0..64)
                    .map(|at: u8| at.wrapping_mul(37) ^ index.wrapping_mul(91))
                    .collect()
            })
            .collect();
        let mut first = vec![0; 64];
        let mut second = vec![0; 64];
        for (index, bytes) in data.iter().enumerate() {
            add_multiple(&mut first, bytes, 1);
            add_multiple(&mut second, bytes, power(index));
        }
        let stripes: Vec<Stripe> = (0..7)
            .map(|device| Stripe {
                device,
                offset: 0,
                device_name: [0; 16],
            })
            .collect();
        let all: Vec<&Vec<u8>> = data.iter().chain([&first, &second]).collect();
        for (wanted, expected) in data.iter().enumerate() {
            let others = (0..5).filter(|other| *other != wanted);
            let ways = others.map(|without| Parity::Both { without });
            for from in ways.chain([Parity::First, Parity::Second]) {
                let row = Row {
                    stripes: stripes.clone(),
                    parities: 2,
                    wanted,
                    from,
                };
                let made = rebuild(&row, 64, &|stripe| {
                    let index = usize::try_from(stripe.device).unwrap();
                    assert_ne!(index, wanted);
                    assert_ne!(from, Parity::Both { without: index });
                    Ok(all[index].clone())
                });
                assert_eq!(&made.unwrap(), expected, "{wanted} {from:?}");
            }
        }
    }
}
