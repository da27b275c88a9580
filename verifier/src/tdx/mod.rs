//! Intel TDX quotes (Intel TDX DCAP Quoting Library API, appendix A.3 and A.4: versions 4 and 5).
//!
//! A quote is read from the very bytes that were signed, by a reader of our own; what is decided on comes from there.
//! Whether the platform's security versions are good enough is Intel's to say, in collateral that came *with* the
//! evidence: `dcap-qvl` converges it, with a root that the policy lists and a time it is given, and its reading of the
//! quote is held against ours. Nothing is ever fetched.
//!
//! What is trusted when: [`Quote::parse`] gives words, not truth. [`VerifiedQuote::verify`] says that a quoting enclave on a
//! platform that Intel certified signed it. [`Evaluation::evaluate`] says what Intel thinks of that platform's security
//! versions. What it all *means* for a policy is said by [`check::check`].

pub mod attributes;
pub mod check;
pub mod claims;
pub mod code;
pub mod collateral;
pub mod evaluate;
mod json_text;
pub mod measured;
mod pck;
pub mod quote;
pub mod reference;
mod time;
pub mod verified;

pub use attributes::TdAttributes;
pub use check::{TdxPolicy, check};
pub use code::TdxCode;
pub use collateral::{Collateral, CollateralError};
pub use evaluate::{Evaluation, TcbStatus};
pub use measured::{RTMRS, RtmrReplay, replay};
pub use quote::{BodyKind, PckData, Quote, QuoteError};
pub use reference::{RtmrEvent, TdxReference};
pub use verified::{Platform, VerifiedQuote};
