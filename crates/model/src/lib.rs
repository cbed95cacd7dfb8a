//! What the mesh is made of: clusters, networks, services, endpoints, identities. Plain values, no I/O.
