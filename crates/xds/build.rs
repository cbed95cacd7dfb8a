//! Compiles the interface definitions under `proto/` with a pure-Rust compiler.
use std::collections::HashSet;
use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let roots = std::fs::read_to_string("roots.txt")?;
    // One compiler per root: protox resolves relative names over everything it has opened, so a
    // name that is unambiguous within one file's imports can become ambiguous with another's.
    let mut seen = HashSet::new();
    let mut descriptors = prost_types::FileDescriptorSet::default();
    for root in roots.lines().filter(|line| !line.trim().is_empty()) {
        let mut compiler = protox::Compiler::new(["proto"])?;
        compiler.include_imports(true).include_source_info(false);
        compiler.open_file(root)?;
        for file in compiler.file_descriptor_set().file {
            if seen.insert(file.name().to_owned()) {
                descriptors.file.push(file);
            }
        }
    }
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    // Without the domain `Name::type_url()` gives "/envoy…", which matches no xDS type URL.
    config.type_name_domain(["."], "type.googleapis.com");
    config.compile_well_known_types();
    config.bytes([".google.protobuf.Any"]);
    // Ordered maps, so that equal messages have equal bytes and a hash can be a version.
    config.btree_map(["."]);
    config.include_file("mod.rs");
    tonic_prost_build::configure()
        .build_server(true)
        .build_client(true)
        .compile_fds_with_config(descriptors, config)?;
    println!("cargo::rerun-if-changed=roots.txt");
    println!("cargo::rerun-if-changed=proto");
    Ok(())
}
