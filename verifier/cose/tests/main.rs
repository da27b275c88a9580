//! Every integration test of this crate, in one program: linked once, each file a module of its own.

mod cbor;
mod common;
mod encrypt;
mod key;
mod receipt;
mod sign1;
mod status_list;
mod third_party;
