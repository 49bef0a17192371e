//! Messages, servers and clients from the uplink's proto folder, compiled by protox: no protoc needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = "../../node/uplink-eventmesh/proto";
    println!("cargo::rerun-if-changed={proto}");
    let files = protox::compile(["eventmesh-service.proto"], [proto])?;
    tonic_prost_build::configure()
        .bytes(".")
        .disable_comments(["."])
        .build_transport(false)
        .compile_fds(files)?;
    Ok(())
}
