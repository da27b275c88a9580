//! Where the broker keeps what it must not lose: one small trait and the embedded engine.
