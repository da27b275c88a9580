//! The encrypted disk of a node, as `policy node add` and `policy node volume` are told of it.

use clap::Args as ClapArgs;
use touchstone_policies::inventory_file::{NodeFile, VolumeFile};

use crate::output::say;

#[derive(ClapArgs)]
pub(super) struct VolumeArgs {
    /// UUID of its encrypted disk (cryptsetup luksUUID)
    #[arg(long, requires = "volume_pcr15", value_name = "UUID")]
    luks_uuid: Option<String>,
    /// Register 15 after that disk's volume key was measured, as `touchstone bootstrap measure` prints it
    #[arg(long, requires = "luks_uuid", value_name = "HEX")]
    volume_pcr15: Option<String>,
}

impl VolumeArgs {
    /// The volume, where one was named.
    pub(super) fn volume(self) -> Option<VolumeFile> {
        let (luks_uuid, pcr15) = self.luks_uuid.zip(self.volume_pcr15)?;
        Some(VolumeFile { luks_uuid, pcr15 })
    }
}

/// Tells of a node's encrypted disk, where it has one.
pub(super) fn tell(node: &NodeFile) {
    if let Some(volume) = &node.volume {
        say!("staged the encrypted disk of {}: LUKS2 {}", node.name, volume.luks_uuid);
    }
}
