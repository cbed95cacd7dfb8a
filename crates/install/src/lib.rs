//! Renders, plans, applies, verifies and explains a mesh.
