//! Every integration test of this crate, in one program: linked once, each file a module of its own.

mod common;
mod ext_authz;
mod guard;
mod layer;
mod nginx;
#[path = "common/nginx.rs"]
mod server;
