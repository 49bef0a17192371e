//! node.toml to a checked configuration of EventMesh Edge.
