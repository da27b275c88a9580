//! Every integration test of this crate, in one program: linked once, each file a module of its own.

mod disk_full;
mod forge;
mod pkcs11;
mod tuf_attacks;
mod web;
