//! Makes the layout of the ring from the kernel's header.

#![forbid(unsafe_code)]

use std::env;
use std::path::PathBuf;

fn main() {
    let header = "layout.h";
    println!("cargo::rerun-if-changed={header}");
    println!("cargo::rerun-if-changed=/usr/include/linux/target_core_user.h");
    let bindings = bindgen::Builder::default()
        .header(header)
        .allowlist_file(".*layout\\.h")
        .generate()
        .expect("linux/target_core_user.h is there: Debian's linux-libc-dev has it");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where to write"));
    bindings
        .write_to_file(out.join("abi.rs"))
        .expect("the folder that cargo gave can be written");
}
