//! The strict CBOR gate and the one place that speaks COSE: keys, signatures, CWTs, status lists, receipts.

pub mod reason;
