//! A simulated SEV-SNP platform, for tests and demonstrations where there is no such hardware.
//!
//! It has a root, intermediates and signing keys of its own making, with AMD's extensions, and signs reports in AMD's
//! format with whatever a test wants in them. It proves nothing about any machine: it is trusted only where the signed
//! policy of a test lists its root, and no shipped program depends on it (`tests/layers.rs`).
//!
//! [`EmulatedTsm`] shows such a platform the way Linux shows a real one, as a `configfs-tsm` folder, so that the attester
//! is the real one.

pub mod authority;
pub mod guest;
pub mod tsm;

pub use authority::{Line, Platform, PlatformError, VekShape};
pub use guest::{Guest, field};
pub use tsm::EmulatedTsm;
