//! Step 4: who needs what, when.

pub mod publish;
pub mod publisher;
