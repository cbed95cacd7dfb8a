//! Reading a body against its schema: types are checked, unknown fields are dropped and named.
