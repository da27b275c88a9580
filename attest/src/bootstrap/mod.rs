//! Opening a node's encrypted disk in its initramfs: attest, fetch the disk's key, see that it is the right disk, open it
//! (`docs/protocol.md`, section 11).

pub mod config;
pub mod header;
pub mod volume;
