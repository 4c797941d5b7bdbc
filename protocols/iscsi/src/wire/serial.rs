//! Sequence numbers that wrap around (RFC 1982, as RFC 7143, 4.2.2 wants it).

/// Whether `first` comes before `second`.
pub fn precedes(first: u32, second: u32) -> bool {
    second.wrapping_sub(first).cast_signed() > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_survives_the_wrap() {
        assert!(precedes(1, 2) && !precedes(2, 1) && !precedes(7, 7));
        assert!(precedes(u32::MAX, 0) && precedes(u32::MAX - 3, 5) && !precedes(5, u32::MAX - 3));
    }
}
