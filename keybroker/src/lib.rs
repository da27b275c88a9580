//! The key broker: sessions, appraisal, decisions, the ledger's sequencer, the trust state and its stream.
