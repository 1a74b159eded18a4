//! Compiles the interface definitions, without protoc.

use std::error::Error;
use std::path::PathBuf;

const CRI: &str = "cri/runtime/v1/api.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={CRI}");
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let descriptors = protox::compile([root.join(CRI)], [&root])?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        // Holds passwords; src/cri.rs writes its Debug by hand.
        .skip_debug([".runtime.v1.AuthConfig"])
        .compile_fds(descriptors)?;
    Ok(())
}
