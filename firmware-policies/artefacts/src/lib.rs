//! What a machine will measure, computed from the files it will boot and run.
//!
//! Boot loaders, kernels, unified kernel images, GRUB configurations, initrds and packages go in as bytes; the events
//! of registers 4, 8, 9 and 11 and the digests of executables come out, as firmware, boot loader, EFI stub and kernel
//! compute them; and the launch digest of an SEV-SNP guest. In scope: arithmetic over bytes. Out of scope: reading files, walking directories, signing.
//!
//! What cannot be known from the artefacts alone is refused by name, never guessed: a computed reference that no
//! machine can have is harmless, one that another machine can have is not.

pub mod boot;
mod bytes;
pub mod cpio;
pub mod deb;
mod error;
pub mod event;
pub mod files;
pub mod fuzz;
pub mod grub;
pub mod inflate;
pub mod pe;
pub mod snp_launch;
pub mod uki;

pub use error::ArtefactError;
