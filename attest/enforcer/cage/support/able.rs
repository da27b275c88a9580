//! Whether this machine gives the tests what a cage takes.

use std::process::{Command, Stdio};

use touchstone_cage::Cgroup;

/// Says why not, where it does not. To be root is not enough: in a container root may find cgroups that can only be read, and
/// be refused namespaces.
pub fn what_a_cage_takes() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("it takes root".into());
    }
    let group = Cgroup::create().map_err(|error| format!("it takes a cgroup version 2 to make others in: {error}"))?;
    drop(group);
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--mount", "--fork", "true"]);
    match unshare.stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        refused => Err(format!("it takes namespaces to be made: {refused:?}")),
    }
}
