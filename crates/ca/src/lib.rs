//! Signs: roots, intermediates, workload certificates.
