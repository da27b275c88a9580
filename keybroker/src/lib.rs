//! The key broker: sessions, appraisal, decisions, the ledger's sequencer, the trust state and its stream.

pub mod clock;
pub mod config;
pub mod problem;
pub mod server;
pub mod tls;
