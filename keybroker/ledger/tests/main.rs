//! Every integration test of this crate, in one program: linked once, each file a module of its own.

mod checkpoint;
mod common;
mod receipt;
mod statement;
mod statement_properties;
mod tree;
mod witness;
