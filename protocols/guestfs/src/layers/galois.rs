//! The field of 256 elements in which Linux computes the second parity of RAID 6: generator 2, polynomial 0x11D.
#![expect(
    clippy::indexing_slicing,
    reason = "tables have a place for every byte, and for every power below 255"
)]

/// `2` to the power of `exponent`.
pub(crate) fn power(exponent: usize) -> u8 {
    TABLES.powers[exponent % 255]
}

/// The product.
pub(crate) fn multiply(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        return 0;
    }
    power(
        usize::from(TABLES.logarithms[usize::from(a)])
            + usize::from(TABLES.logarithms[usize::from(b)]),
    )
}

/// What `a` must be multiplied with to give 1; 0 has none and gives 0.
pub(crate) fn inverse(a: u8) -> u8 {
    match a {
        0 => 0,
        _ => power(255 - usize::from(TABLES.logarithms[usize::from(a)])),
    }
}

/// Adds `factor` times `data` to `sum`.
pub(crate) fn add_multiple(sum: &mut [u8], data: &[u8], factor: u8) {
    if factor == 1 {
        for (sum, byte) in sum.iter_mut().zip(data) {
            *sum ^= byte;
        }
        return;
    }
    let products: [u8; 256] = std::array::from_fn(|byte| multiply(low8(byte), factor));
    for (sum, byte) in sum.iter_mut().zip(data) {
        *sum ^= products[usize::from(*byte)];
    }
}

/// Multiplies all of `data` with `factor`.
pub(crate) fn scale(data: &mut [u8], factor: u8) {
    let products: [u8; 256] = std::array::from_fn(|byte| multiply(low8(byte), factor));
    for byte in data {
        *byte = products[usize::from(*byte)];
    }
}

const fn low8(number: usize) -> u8 {
    number.to_le_bytes()[0]
}

struct Tables {
    powers: [u8; 255],
    logarithms: [u8; 256],
}

static TABLES: Tables = tables();

const fn tables() -> Tables {
    let mut tables = Tables {
        powers: [0; 255],
        logarithms: [0; 256],
    };
    let mut element = 1_u8;
    let mut exponent = 0;
    while exponent < 255 {
        tables.powers[exponent] = element;
        tables.logarithms[element as usize] = low8(exponent);
        let carries = element & 0x80 != 0;
        element <<= 1;
        if carries {
            element ^= 0x1D;
        }
        exponent += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Multiplication as it is defined: of polynomials, bit by bit.
    fn by_definition(a: u8, b: u8) -> u8 {
        let mut product = 0_u16;
        for bit in 0..8 {
            if b >> bit & 1 == 1 {
                product ^= u16::from(a) << bit;
            }
        }
        for bit in (8..16).rev() {
            if product >> bit & 1 == 1 {
                product ^= 0x11D << (bit - 8);
            }
        }
        u8::try_from(product).unwrap()
    }

    #[test]
    fn the_field_is_the_one_of_linux() {
        for a in 0..=255 {
            for b in 0..=255 {
                assert_eq!(multiply(a, b), by_definition(a, b), "{a} times {b}");
            }
            assert_eq!(multiply(a, inverse(a)), u8::from(a != 0), "{a}");
        }
        let mut sum = [1, 2, 3];
        add_multiple(&mut sum, &[5, 6, 7], 1);
        assert_eq!(sum, [4, 4, 4]);
        add_multiple(&mut sum, &[1, 0, 0x80], 2);
        assert_eq!(sum, [6, 4, 4 ^ 0x1D]);
        scale(&mut sum, inverse(2));
        assert_eq!(sum[..2], [3, 2]);
    }
}
