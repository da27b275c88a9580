//! What a workload is not given, even as root: the capabilities with which it could undo what holds it.
//!
//! Without `CAP_SYS_ADMIN` it cannot mount over its read-only cgroups or enter another namespace, without `CAP_NET_ADMIN`
//! it cannot change its packet filter, without `CAP_NET_RAW` it cannot send around it, without `CAP_SYS_PTRACE` it
//! cannot reach into others. A workload that is root can still write what root may write on this machine's file systems:
//! give it a user of its own.

use rustix::thread::{
    CapabilitySet, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// What is left: what programs need that are started as root and become somebody else.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// Takes everything else, and every way to get more, from what this process starts from now on; its own capabilities stay.
///
/// # Errors
/// The operating system's.
pub(crate) fn drop_for_children() -> rustix::io::Result<()> {
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        // The kernel says which it knows.
        match capability_is_in_bounding_set(one) {
            Ok(true) if !KEPT.contains(one) => remove_capability_from_bounding_set(one)?,
            Ok(_) => {}
            Err(_) => break,
        }
    }
    // What is ambient would pass every bound.
    inheritable(CapabilitySet::empty())?;
    clear_ambient_capability_set()?;
    set_no_new_privs(true)
}

/// What the init of a user namespace needs to begin with. It is not root there, so nothing is left over an execve
/// (capabilities(7)) but what is ambient.
///
/// # Errors
/// The operating system's.
pub(crate) fn keep_for_the_init() -> rustix::io::Result<()> {
    let needed = [CapabilitySet::SYS_ADMIN, CapabilitySet::SETPCAP];
    inheritable(needed.iter().copied().collect())?;
    needed
        .iter()
        .try_for_each(|one| configure_capability_in_ambient_set(*one, true))
}

fn inheritable(set: CapabilitySet) -> rustix::io::Result<()> {
    let mut sets = capabilities(None)?;
    sets.inheritable = set;
    set_capabilities(None, sets)
}
