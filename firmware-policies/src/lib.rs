//! The policy repository: author, sign, publish, load and test the signed inputs of every decision.
//!
//! A repository is a folder with a TUF repository in it. Authors stage ([`author`]) and publish ([`publish`]); everyone
//! else loads ([`load`]) the whole of it, verified, or nothing. In scope: the files, their signatures, versions and
//! expiry, and what they say. Out of scope: judging evidence (`touchstone-verifier`), and any clock: the time is given.

pub mod author;
pub mod cedar;
pub mod ceremony;
pub mod compute;
pub mod error;
pub mod foreign;
pub mod fuzz;
pub mod keys;
pub mod layout;
pub mod load;
pub mod mirror;
pub mod policy_tests;
pub mod preview;
pub mod publish;
pub mod references;
pub mod region;
mod repository;
pub mod sets;
pub mod settings;
pub mod show;
mod targets;
#[cfg(test)]
mod testing;
mod transport;
mod tuf;

pub use author::entries;
pub use publish::timestamp;
pub use settings::timers;
pub use targets::{
    deny_file, detectors_file, enforcers_file, federation_file, inventory_file, keyset_file, network_file, node_name,
    operators_file, signers_file, tenants_file,
};
pub use transport::source;
pub use tuf::{delegation, floors};

pub use author::entries::{EntryStaged, NewDetector, NewEnforcer, NewOperator};
pub use author::federation::{federation_drop, federation_list, federation_trust};
pub use author::identity::NodeIdentity;
pub use author::ima_keys::{ImaKeysAdded, ima_key_add};
pub use author::init::{InitOptions, init_with};
pub use author::trust::{BundleAdded, CrlAdded, crl_add, deny_set, trust_bundle};
pub use author::vendor::{VendorFile, VendorImported, reference_import};
pub use author::{
    Initialised, KeysetAdded, NodeAdded, NodePlace, ReferenceAdded, TrustAdded, init, keyset_add, node_add,
    reference_add, trust_add, withdraw,
};
pub use cedar::{
    Cedar, CedarDecision, DecisionCode, DecisionReason, LineageFacts, MAX_LINEAGE_FACTS, NodeSeen, Principal, Request,
};
pub use compute::{Compute, ReferenceComputed, reference_compute};
pub use error::{PolicyCode, PolicyError, Problem};
pub use foreign::{CopyError, ForeignPolicy, RepositoryCopy, load_carried, load_foreign};
pub use load::{Fetched, LoadOptions, PolicySet, load, load_blocking};
pub use mirror::{Behind, Mirror};
pub use publish::{PublishOptions, PublishedVersion, publish, publish_with};
pub use region::{Additions, Demands, View};
pub use settings::timers::Timers;
pub use settings::{Containment, Delegation, Extent, Reach, Scope, Settings, SoftwareKeys, settings_set};
pub use show::{Show, show, show_with};
pub use targets::detectors_file::{Detector, DetectorReach, Detectors};
pub use targets::enforcers_file::{Enforcers, ListedEnforcer};
pub use targets::federation_file::{Accept, FederatedDomain, Federation, TrustBegins};
pub use targets::keyset_file::{Job, Keyset, KeysetEntry};
pub use targets::network_file::{Network, Reachable, Transport};
pub use targets::node_name::{NodeName, is_node_name, is_workload_name};
pub use targets::operators_file::{Operator, Operators, Power};
pub use targets::tenants_file::{NotApart, Tenant, Tenants};
pub use touchstone_verifier::anchors::Purpose;
pub use transport::source::{Location, Source};
pub use tuf::delegation::SignedRegion;
pub use tuf::expiry::RoleEnd;
pub use tuf::floors::{KeysSince, RoleVersions};
