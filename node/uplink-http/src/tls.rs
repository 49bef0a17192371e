//! Who is shown the client certificate.

use eventmesh_edge_uplink_net::{CertificateTime, TlsError, TlsOptions, client_config};
use rustls::ClientConfig;
use std::sync::Arc;

/// What handshakes are made with; read anew at each connect of the uplink.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    /// For the configured receivers: shows the client certificate, if there is one.
    pub(crate) known: Arc<ClientConfig>,
    /// For where a redirect leads: shows none (RFC 9110 section 15.4, credentials are for one origin).
    pub(crate) stranger: Arc<ClientConfig>,
}

impl Tls {
    /// Reads the files. Blocks on the disk: not for the runtime's thread.
    pub(crate) fn read(options: &TlsOptions, time: Option<&CertificateTime>) -> Result<Tls, TlsError> {
        let roots = options.trust_anchors()?;
        let stranger = Arc::new(client_config(Arc::clone(&roots), None, time)?);
        let known = match &options.identity {
            Some(identity) => Arc::new(client_config(roots, Some(identity), time)?),
            None => Arc::clone(&stranger),
        };
        Ok(Tls { known, stranger })
    }
}
