//! The strict CBOR gate and the one place that speaks COSE: keys, signatures, CWTs, status lists, receipts.

pub mod cbor;
pub mod code;
pub mod cwt;
pub mod encrypt;
pub mod key;
pub mod reason;
pub mod receipt;
pub mod sign1;
pub mod status_list;
