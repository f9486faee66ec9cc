//! Compiles `proto/` without `protoc`: prost types, and for the public package their canonical JSON form and its
//! description.

#[path = "build/openapi.rs"]
mod openapi;

use std::io::{Error, Result};
use std::path::Path;

use prost::Message as _;

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=build");
    let files = [
        "tidings/v1/tidings.proto",
        "tidings/link/v1/link.proto",
        "tidings/bus/v1/bus.proto",
        "tidings/archive/v1/archive.proto",
        "tidings/cache/v1/cache.proto",
    ];
    let descriptors = protox::compile(files, ["proto"]).map_err(Error::other)?;

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
        // Larger than what comes often.
        .boxed(".tidings.link.v1.FromEdge.item.publish")
        .boxed(".tidings.link.v1.ToEdge.item.published")
        .boxed(".tidings.bus.v1.Notice.notice.published")
        .boxed(".tidings.bus.v1.Notice.notice.retained")
        .compile_well_known_types()
        .extern_path(".google.protobuf.Timestamp", "crate::Timestamp")
        .compile_fds(descriptors.clone())?;

    let encoded = descriptors.encode_to_vec();
    pbjson_build::Builder::new()
        .register_descriptors(&encoded)?
        .extern_path(".google.protobuf.Timestamp", "crate::Timestamp")
        .build(&[".tidings.v1"])?;

    let is_public = |file: &&prost_types::FileDescriptorProto| file.package() == "tidings.v1";
    let public = descriptors.file.iter().find(is_public);
    let public = public.ok_or_else(|| Error::other("there is no public package"))?;
    let schemas = openapi::schemas(public)?;
    let out_dir = std::env::var_os("OUT_DIR").ok_or_else(|| Error::other("OUT_DIR is not set"))?;
    let path = Path::new(&out_dir).join("openapi.json");
    std::fs::write(path, schemas.to_string())
}
