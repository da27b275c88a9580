//! Strict, deterministic CBOR: the gate in front of everything this project decodes.
//!
//! One encoding per value (RFC 8949 section 4.2.1, core deterministic encoding): shortest integers and lengths,
//! definite lengths only, map keys in bytewise order of their encodings and never twice, nothing after the item.
//! Floats, `undefined` and unassigned simple values do not occur in any format we speak and are refused. So whatever
//! [`decode`] accepts, [`encode`] reproduces byte for byte, and two readers can never see two different values.

mod decode;
mod encode;
mod error;
mod limits;
mod reader;
mod value;

pub use decode::{decode, decode_lenient_order, gate};
pub use encode::encode;
pub use error::CborError;
pub use limits::Limits;
pub use reader::{MapReader, ShapeError};
pub use value::Value;

pub(crate) use encode::{write_bytes, write_head, write_text};

/// The major types of RFC 8949 section 3.1, as they stand in the upper three bits of the initial byte.
pub(crate) mod major {
    pub(crate) const UNSIGNED: u8 = 0;
    pub(crate) const NEGATIVE: u8 = 1;
    pub(crate) const BYTES: u8 = 2;
    pub(crate) const TEXT: u8 = 3;
    pub(crate) const ARRAY: u8 = 4;
    pub(crate) const MAP: u8 = 5;
    pub(crate) const TAG: u8 = 6;
    pub(crate) const SIMPLE: u8 = 7;
}
