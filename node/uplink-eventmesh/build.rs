//! Messages from `proto/`, compiled by protox: no protoc needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["eventmesh-cloudevents.proto"], ["proto"])?;
    let mut config = prost_build::Config::new();
    // `bytes` as slices of what was received: payloads are not copied.
    config.bytes(["."]);
    // Their comments are written for the .proto files; rustdoc would take some of them for links.
    config.disable_comments(["."]);
    config.compile_fds(files)?;
    Ok(())
}
