//! Compiles `proto/` without `protoc`: prost types, and their canonical JSON form for the public package.

use std::io::Result;

use prost::Message as _;

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=proto");
    let files = ["tidings/v1/tidings.proto", "tidings/link/v1/link.proto"];
    let descriptors = protox::compile(files, ["proto"]).map_err(std::io::Error::other)?;

    prost_build::Config::new()
        .bytes(["."])
        .compile_well_known_types()
        .extern_path(".google.protobuf.Timestamp", "crate::Timestamp")
        .compile_fds(descriptors.clone())?;

    let encoded = descriptors.encode_to_vec();
    pbjson_build::Builder::new()
        .register_descriptors(&encoded)?
        .extern_path(".google.protobuf.Timestamp", "crate::Timestamp")
        .build(&[".tidings.v1"])
}
