//! Compiles `proto/` without `protoc`: prost types, and their canonical JSON form for the public package.

use std::io::Result;

use prost::Message as _;

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=proto");
    let files = ["tidings/v1/tidings.proto", "tidings/link/v1/link.proto"];
    let descriptors = protox::compile(files, ["proto"]).map_err(std::io::Error::other)?;

    prost_build::Config::new()
        .bytes(["."])
        // Seldom there, and large: the answer to a send stays small.
        .boxed(".tidings.v1.Ok.group")
        .boxed(".tidings.v1.Ok.batch")
        .boxed(".tidings.v1.Event.event.changed")
        .boxed(".tidings.v1.Ok.answer.changes")
        .boxed(".tidings.v1.Ok.answer.receipts")
        .boxed(".tidings.v1.Ok.answer.profile")
        .boxed(".tidings.v1.Ok.answer.link")
        .boxed(".tidings.v1.Ok.answer.message")
        .boxed(".tidings.v1.Ok.answer.contact")
        .boxed(".tidings.v1.Ok.answer.state")
        .boxed(".tidings.v1.Message.content.media")
        .boxed(".tidings.v1.Message.content.location")
        .boxed(".tidings.v1.Message.content.merged")
        .boxed(".tidings.v1.Message.content.system")
        .boxed(".tidings.v1.Message.forwarded")
        .compile_well_known_types()
        .extern_path(".google.protobuf.Timestamp", "crate::Timestamp")
        .compile_fds(descriptors.clone())?;

    let encoded = descriptors.encode_to_vec();
    pbjson_build::Builder::new()
        .register_descriptors(&encoded)?
        .extern_path(".google.protobuf.Timestamp", "crate::Timestamp")
        .build(&[".tidings.v1"])
}
