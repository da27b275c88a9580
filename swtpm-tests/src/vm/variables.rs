//! The firmware's variable store (OVMF_VARS): what a person changes in the firmware's menu.
#![expect(
    clippy::indexing_slicing,
    reason = "test support: what is not as it must be fails the test"
)]

/// The variable that says whether Secure Boot is enforced while its keys are enrolled (EDK II, SecureBootConfigDxe).
const SECURE_BOOT_ENABLE: &str = "SecureBootEnable";

/// Switches Secure Boot off as its menu entry does: the keys stay enrolled.
///
/// # Panics
/// When the store has no such variable, or it is not on.
pub fn switch_secure_boot_off(store: &mut [u8]) {
    let name: Vec<u8> = SECURE_BOOT_ENABLE
        .encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect();
    let after: Vec<usize> = store
        .windows(name.len())
        .enumerate()
        .filter(|(_, window)| *window == name)
        .map(|(at, _)| at + name.len())
        .collect();
    assert!(!after.is_empty(), "no {SECURE_BOOT_ENABLE} in the variable store");
    for at in after {
        assert_eq!(store[at], 1, "Secure Boot is on before it is switched off");
        store[at] = 0;
    }
}
