//! The key broker: sessions, appraisal, decisions, the ledger's sequencer, the trust state and its stream.

pub mod body;
pub mod clock;
pub mod config;
pub mod key_files;
pub mod problem;
pub mod refusals;
pub mod server;
pub mod session;
pub mod tls;
