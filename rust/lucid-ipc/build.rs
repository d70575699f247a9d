//! Code from the `.proto` files, made at each build: what is checked in is the description alone, so that the two
//! cannot differ.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: [&str; 2] = ["proto/rdp.proto", "proto/session.proto"];
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(FILES, ["proto"])?;
    // Pictures are large: they stay in the buffer in which they came.
    tonic_prost_build::configure().bytes(".lucid.session.v1").compile_fds(files)?;
    Ok(())
}
