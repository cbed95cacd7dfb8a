//! SPIFFE identities, trust bundles, key material, rustls configurations, rotation.
