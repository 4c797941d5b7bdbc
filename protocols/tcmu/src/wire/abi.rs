//! The layout of the ring, as the kernel's header has it: made by `build.rs` from `layout.h`.

#![expect(
    unreachable_pub,
    reason = "what bindgen makes is all public; this module is not"
)]

include!(concat!(env!("OUT_DIR"), "/abi.rs"));
