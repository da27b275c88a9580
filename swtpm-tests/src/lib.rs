//! The whole system against real software TPMs and recorded boots: what the tests of several crates stand on.
//!
//! Test support throughout: where a committed file is missing or malformed the calling test fails at once, with the
//! file's name, instead of carrying an error about.

pub mod boots;
pub mod cvm;
pub mod domain;
pub mod golden;
pub mod line;
pub mod machine;
pub mod measurements;
pub mod node;
pub mod observe;
pub mod odd_key;
pub mod relay;
pub mod swtpm;
pub mod tap;
pub mod tools;
pub mod vm;
