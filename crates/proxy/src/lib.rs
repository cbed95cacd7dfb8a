//! The data plane: bytes in, bytes out. Sidecar and east-west gateway.
