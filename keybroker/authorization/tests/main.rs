//! Every integration test of this crate, in one program: linked once, each file a module of its own.

mod attacks;
mod chain_properties;
mod chains;
mod common;
mod decisions;
mod federation;
mod fuzzed;
mod golden;
mod malformed;
mod properties;
mod trust_state;
