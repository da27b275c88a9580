//! The key broker: sessions, appraisal, decisions, the ledger's sequencer, the trust state and its stream.

pub mod body;
pub mod clock;
pub mod config;
pub mod entry;
pub mod key_files;
pub mod inputs;
pub mod keys;
pub mod log;
pub mod node;
pub mod problem;
pub mod queue;
pub mod refusals;
pub mod rows;
pub mod sequencer;
pub mod server;
pub mod session;
pub mod tls;
pub mod trust;
