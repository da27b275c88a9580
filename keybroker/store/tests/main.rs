//! Every integration test of this crate, in one program: linked once, each file a module of its own.

mod conformance;
mod embedded;
mod kill;
mod model;
