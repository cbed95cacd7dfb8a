//! Signs: roots, intermediates, workload certificates.
//!
//! * [`offline`] makes a root and one intermediate per cluster, as files a `cacerts` secret is
//!   made of.
//! * [`folder`] keeps them as files, piece by piece as `make` does.
//! * [`authority`] is the signing certificate authority of a control plane, plugged in or
//!   self-signed, and issues workload and serving certificates.
//! * [`request`] decides which signing requests are acceptable.
//!
//! **Invariants**
//! * Of a request only the public key is used. Names, usages and validity are decided here.
//! * Private keys leave only by functions named so, as text that is wiped when dropped.

pub mod authority;
pub mod bundle;
pub mod folder;
pub mod offline;
mod profile;
pub mod request;
