//! Any bytes, as commands.

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
        scsi::fuzz::fuzz_commands(&bytes);
    }

    /// Random bytes seldom have an opcode that exists and no reserved bit: so opcodes are real, and most bits clear.
    #[test]
    fn likely_commands_are_answered(commands in proptest::collection::vec(command(), 0..40)) {
        scsi::fuzz::fuzz_commands(&commands.concat());
    }
}

fn command() -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![4 => Just(0_u8), 2 => 0_u8..9, 1 => any::<u8>()];
    (
        any::<u8>(),
        proptest::sample::select(OPCODES),
        proptest::collection::vec(field, 15),
    )
        .prop_map(|(control, opcode, mut fields)| {
            fields[0] &= 0x1f;
            let mut command = vec![control, opcode];
            command.append(&mut fields);
            command
        })
}

const OPCODES: &[u8] = &[
    0x00, 0x03, 0x08, 0x0a, 0x12, 0x15, 0x16, 0x17, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x25, 0x28, 0x2a,
    0x2e, 0x2f, 0x34, 0x35, 0x41, 0x42, 0x48, 0x55, 0x56, 0x57, 0x5a, 0x5e, 0x5f, 0x83, 0x84, 0x88,
    0x89, 0x8a, 0x8b, 0x8e, 0x8f, 0x90, 0x91, 0x93, 0x9c, 0x9e, 0xa0, 0xa3, 0xa8, 0xaa, 0xae, 0xaf,
];
