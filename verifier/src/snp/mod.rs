//! AMD SEV-SNP attestation reports (AMD 56860, SEV Secure Nested Paging Firmware ABI, chapter 7).
//!
//! A report is read from the very bytes that were signed, never from a re-serialised copy; its layout follows the
//! product line that the *certificate* names, never a guess from the chip id. Security versions are compared component
//! by component, never as one number.
//!
//! What is trusted when: [`Report::parse`] gives words, not truth. [`VerifiedVek::verify`] says that AMD certified the
//! key; [`VerifiedReport::verify`] says that this key signed the report and belongs to the chip and security versions
//! the report names. What the words *mean* for a policy is said by [`check::check`].

pub mod check;
pub mod claims;
pub mod code;
pub mod guest_policy;
pub mod known;
pub mod policy;
pub mod product;
pub mod reference;
pub mod report;
pub mod tcb;
pub mod vek;
pub mod verified;

pub use check::{check, check_provider, check_report_data};
pub use claims::claims;
pub use code::SnpCode;
pub use guest_policy::{GuestPolicy, PlatformInfo};
pub use known::KnownVek;
pub use policy::{AliasCheck, SnpPolicy};
pub use product::Product;
pub use reference::{GuestPolicyBits, PackedFloor, RawField, RawValue, SnpReference, TcbFloors};
pub use report::{Report, ReportError, SigningKey};
pub use tcb::{Component, Tcb, TcbError};
pub use vek::{Vek, VekError, VekKind, VerifiedVek};
pub use verified::{SignedReport, VerifiedReport};
