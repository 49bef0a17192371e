//! Uplink to whatever takes CloudEvents over HTTP.
mod counters;
mod dial;
mod encode;
mod judge;
mod options;
mod outbox;
mod receipt;
mod retry_after;
#[cfg(test)]
mod testing;
mod tls;
mod url;
pub use counters::{Counters, Counts};
pub use options::{
    Auth, CertificateTime, ClientAuth, Mode, OAuth2, Options, OptionsError, Secret, SecretSource,
    TlsIdentity, TlsOptions,
};
pub use url::{Url, UrlError};
