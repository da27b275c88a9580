//! NVIDIA attestation of GPUs and NVSwitches: an SPDM 1.1 GET_MEASUREMENTS exchange, signed by the device.
//!
//! What the driver hands out as the attestation report is the request (37 bytes, with the challenge) followed by the
//! response (DMTF DSP0274 1.1.0, 10.11): measurement blocks, a nonce of the device, NVIDIA's typed fields as opaque data,
//! and an ECDSA P-384 signature over request ‖ response without the signature. The key is certified by a chain of the
//! device: attestation key of the loaded firmware, device identity (made in the factory), NVIDIA's authorities.
//!
//! What is trusted when: [`GpuReport::parse`] gives words, not truth. [`VerifiedGpu::verify`] says that a device which
//! NVIDIA certified signed them, with the firmware its certificate names. What the words *mean* is said by
//! [`check`] and by comparison with a signed [`GpuReference`]. That the device sits in the machine which sent the report
//! is said by none of them: a challenge adds freshness, never locality.

pub mod check;
pub mod code;
mod fwid;
pub mod opaque;
pub mod product;
pub mod record;
pub mod reference;
pub mod report;
pub mod verified;
pub mod version;

pub use check::{GpuPolicy, check, claims};
pub use code::GpuCode;
pub use opaque::{Details, Mode, Opaque, OpaqueError};
pub use product::{Kind, Product};
pub use reference::{Difference, GpuReference};
pub use report::{GpuReport, Measurement, ReportError};
pub use verified::{SignedGpu, VerifiedGpu};
pub use version::Version;
