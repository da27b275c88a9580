//! Whose list of targets a proposal or a version changes.

use clap::Args as ClapArgs;
use touchstone_policies::ceremony::Scope;

#[derive(ClapArgs)]
#[group(multiple = false)]
pub(super) struct ScopeArgs {
    /// Only the list of this region, which signs for itself
    #[arg(long, value_name = "ID")]
    region: Option<String>,
    /// Only the list of the whole; what is staged for regions that sign for themselves waits
    #[arg(long)]
    global: bool,
}

impl ScopeArgs {
    pub(super) fn scope(&self) -> Scope {
        match (&self.region, self.global) {
            (Some(id), _) => Scope::Region(id.clone()),
            (None, true) => Scope::Global,
            (None, false) => Scope::All,
        }
    }
}
