//! What nobody who is well would send.

use guestworker::fuzz_worker;
use proptest::prelude::{any, proptest};

proptest! {
    #[test]
    fn rubbish_is_never_more_than_not_believed(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        fuzz_worker(&bytes);
    }

    #[test]
    fn rubbish_in_frames_is_looked_at(
        asked in any::<u8>(),
        kind in 4_u8..12,
        body in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let length = u32::try_from(body.len()).unwrap();
        let frame = [&[asked][..], &length.to_le_bytes(), &[kind, 0, 0, 0], &body].concat();
        fuzz_worker(&frame);
    }

    #[test]
    fn small_numbers_reach_far(
        asked in any::<u8>(),
        body in proptest::collection::vec(0_u8..4, 0..400),
    ) {
        let length = u32::try_from(body.len()).unwrap();
        let frame = [&[asked][..], &length.to_le_bytes(), &[4, 0, 0, 0], &body].concat();
        fuzz_worker(&frame);
    }
}

#[test]
fn a_frame_that_claims_to_be_long_takes_no_memory() {
    for length in [8 << 20, (8 << 20) + 1, u32::MAX] {
        let frame = [&[4_u8][..], &length.to_le_bytes(), &[4, 0, 0, 0, 1]].concat();
        assert!(!fuzz_worker(&frame));
    }
    assert!(fuzz_worker(&[
        1, 8, 0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0
    ]));
}
