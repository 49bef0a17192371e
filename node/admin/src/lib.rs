//! Admin API of EventMesh Edge and its client.
