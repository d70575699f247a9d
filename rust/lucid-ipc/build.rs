//! Code from the `.proto` files, made at each build: what is checked in is the description alone, so that the two
//! cannot differ.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: [&str; 4] =
        ["proto/accounts.proto", "proto/rdp.proto", "proto/session.proto", "proto/update.proto"];
    // Nobody prints by accident what these hold.
    const SECRET: [&str; 6] = ["Person", "AdmitRequest", "SetPasswordRequest", "Second", "Token", "File"];
    let secret = SECRET.map(|message| format!(".lucid.accounts.v1.{message}"));
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(FILES, ["proto"])?;
    // Pictures are large: they stay in the buffer in which they came.
    tonic_prost_build::configure().bytes(".lucid.session.v1").skip_debug(secret).compile_fds(files)?;
    Ok(())
}
