//! The domain that a guard or a relay obeys: what is asked for on the command line, and how its policy is kept current.

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use touchstone_attest::client::Endpoint;
use touchstone_attest::floors::PolicyFloors;
use touchstone_enforcer::guard::Renewal;
use touchstone_policies::{Location, Mirror, Source};

use crate::output::Failure;

/// Whom to follow, and where policy comes from.
#[derive(ClapArgs)]
pub struct Obeyed {
    /// The trust domain
    #[arg(long)]
    domain: String,
    /// Brokers, or relays nearer to them, https://host:port (repeatable)
    #[arg(long = "broker", required = true)]
    brokers: Vec<String>,
    /// The policy repository: a folder or an http(s) URL, for example of a broker's /v1/policy
    #[arg(long)]
    policy: Location,
    /// Certificate authorities, PEM, of an https policy repository
    #[arg(long)]
    policy_ca: Option<PathBuf>,
    /// The root.json that is trusted
    #[arg(long)]
    root: PathBuf,
}

impl Obeyed {
    /// How the policy is kept current for `id`; accepted versions, and a copy of the repository, in `state` where there is
    /// one. The copy is kept of a repository on a server, and of any where `copies` is.
    pub fn renewal(self, id: String, state: Option<&Path>, copies: bool) -> Result<Renewal, Failure> {
        let brokers = self
            .brokers
            .iter()
            .map(|broker| Endpoint::parse(broker))
            .collect::<Result<Vec<_>, _>>()?;
        let mut repository = Source::new(self.policy);
        if let Some(ca) = &self.policy_ca {
            repository = repository.with_ca(ca)?;
        }
        let copies = copies || repository.location().folder().is_none();
        Ok(Renewal {
            mirror: state
                .filter(|_| copies)
                .map(|folder| Mirror::new(folder.join("policy"))),
            floors: state.map(PolicyFloors::open).transpose()?,
            root: self.root,
            domain: self.domain,
            id,
            brokers,
            repository,
        })
    }
}
