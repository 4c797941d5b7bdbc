//! Bytes without sense, through the function that fuzzing calls.

use nfs::fuzz_record;
use proptest::prelude::*;

use crate::support::Raw;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(data in proptest::collection::vec(any::<u8>(), 0..600)) {
        fuzz_record(&data);
    }

    #[test]
    fn any_arguments_of_any_procedure(
        procedure in 0_u8..32,
        handle in any::<bool>(),
        words in proptest::collection::vec(prop_oneof![0_u32..8, any::<u32>()], 0..40),
    ) {
        let first = procedure | if handle { 192 } else { 128 };
        let mut data = vec![first];
        for word in words {
            data.extend(word.to_be_bytes());
        }
        fuzz_record(&data);
    }

    #[test]
    fn good_calls_with_damage(
        procedure in 0_u32..22,
        at in any::<prop::sample::Index>(),
        value in any::<u8>(),
        tail in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut record = Raw::nfs(1, procedure).opaque(&[0; 32]).opaque(b"name").record();
        record.extend(tail);
        let at = at.index(record.len());
        record[at] = value;
        fuzz_record(&record);
    }
}
