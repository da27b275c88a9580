//! Every integration test of this crate, in one program: linked once, each file a module of its own.

mod common;
mod ext_authz;
mod guard;
#[path = "common/hostile.rs"]
mod hostile;
mod layer;
mod nginx;
mod relayed;
#[path = "common/nginx.rs"]
mod server;
