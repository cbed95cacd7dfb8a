//! SPIFFE identities, trust bundles, key material, rustls configurations, rotation.
//!
//! Everything that decides *who the other side is* lives here, so that it is decided once:
//! [`peer`] verifies a chain and yields a [`spiffe::SpiffeId`]; [`mesh`] builds the mutual-TLS
//! configurations of the data plane; [`serving`] the one-sided TLS of the control plane.
//!
//! **Invariants**
//! * Private keys never print, never clone and are wiped when dropped.
//! * A verifier reads the trust bundle at each handshake: a new bundle counts from the next one.
//! * Sessions are never resumed and early data is never accepted, so a handshake always decides
//!   under the current trust bundle.
#![deny(missing_docs)]

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;

pub mod identity;
pub mod key;
pub mod mesh;
pub mod peer;
pub mod roots;
pub mod serving;
pub mod spiffe;
pub mod x509;

pub use rustls;

/// The one cryptography provider of the whole program.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())).clone()
}

/// Makes [`provider`] the process's default, for libraries that ask for one. Later calls change
/// nothing.
pub fn install_provider() {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::debug!("a cryptography provider was installed before");
    }
}
