//! Why a container does not start, or is stopped.

touchstone_cose::reason_codes! {
    /// Codes of the OCI hook and of the guard it asks.
    pub enum ContainerCode {
        StateTooLarge = "container-state-too-large": "The container's state is larger than any runtime writes. Look at who calls the hook.",
        StateMalformed = "container-state-malformed": "What the hook was given is not the state of a container that is being created (OCI runtime specification, \"State\"). Let the runtime call it, as createRuntime.",
        IdInvalid = "container-id-invalid": "The container's id is not one. Use letters, digits, and `_ . + -`.",
        RightMissing = "container-right-missing": "The bundle does not name an action and a resource. Set the annotations touchstone.action and touchstone.resource.",
        RightMalformed = "container-right-malformed": "The annotations touchstone.action and touchstone.resource are not a scope. Write an action and a resource in lower case, without wildcards.",
        BundlePath = "bundle-path": "The path of the bundle is relative, has dot segments, or leads over a symbolic link. Give the real path.",
        BundleUnreadable = "bundle-unreadable": "The bundle's config.json cannot be read.",
        BundleOpen = "bundle-open-to-others": "Others than root may write to the bundle's config.json, so it can change after it was judged. Take their rights away.",
        BundleTooLarge = "bundle-too-large": "The bundle's config.json is larger than any that is used.",
        BundleMalformed = "bundle-malformed": "The bundle's config.json is not JSON, nests too deep, or names a key twice.",
        BundleDiffers = "bundle-differs": "The bundle's config.json and the runtime's state name different rights. Two readers must not see two bundles.",
        ProcessGone = "container-process-gone": "The container's first process is not there, or is another one by now.",
        SharesProcesses = "container-shares-processes": "The container has no PID namespace of its own with its first process as init, so that killing that one would not end the others. Give it one.",
        CgroupShared = "container-cgroup-shared": "The container has no control group of its own, so that freezing it would freeze others. Give it a cgroupsPath of its own.",
        CgroupUnusable = "container-cgroup-unusable": "The container's control group can neither be frozen nor killed here. Look whether cgroup v2, or the v1 freezer, is mounted.",
        Known = "container-known": "Another container of this id is being watched. Use another id, or wait until that one has ended.",
        Full = "enforcer-containers-full": "The guard watches over as many containers as it may. It takes new ones as the old ones end.",
        AgentUnavailable = "agent-unavailable": "The node's agent gave no authorization. Look at touchstone agent status.",
        GuardUnavailable = "guard-unavailable": "The node's guard did not answer. Nothing starts without it: look whether it runs, and whether the socket is the one the hook names.",
        KeeperUnavailable = "keeper-unavailable": "The process that stops the container should the guard die could not be started. Nothing starts without it.",
    }
}

/// Why, in words too.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {found}")]
pub struct ContainerRefused {
    /// The stable code.
    pub code: ContainerCode,
    /// What was found; printable, never a secret.
    pub found: String,
}

impl ContainerRefused {
    /// Refused; what cannot be printed in `found` becomes `?`, and it is cut to 256 characters.
    pub fn new(code: ContainerCode, found: impl std::fmt::Display) -> Self {
        let found = found.to_string();
        let printable = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
        Self {
            code,
            found: found.chars().take(256).map(printable).collect(),
        }
    }
}
