//! Where a repository is, and how its bytes come from there: from a folder or a web server, never more than a limit.
//! Nothing here believes anything of what it reads.

pub(crate) mod bounded;
pub(crate) mod files;
mod http;
pub mod source;
