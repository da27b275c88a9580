//! The policy repository: author, sign, publish, load and test the signed inputs of every decision.
//!
//! A repository is a folder with a TUF repository in it. Authors stage ([`author`]) and publish ([`publish`]); everyone
//! else loads ([`load`]) the whole of it, verified, or nothing. In scope: the files, their signatures, versions and
//! expiry, and what they say. Out of scope: judging evidence (`touchstone-verifier`), and any clock: the time is given.

mod amd;
pub mod author;
pub mod cedar;
pub mod ceremony;
mod commit;
pub mod compute;
mod contents;
mod decision;
pub mod delegation;
pub mod deny_file;
pub mod detectors_file;
pub mod enforcers_file;
pub mod entries;
pub mod error;
mod evidence;
mod expiry;
pub mod federation_file;
mod files;
pub mod floors;
pub mod foreign;
pub mod fuzz;
mod http;
mod identity;
pub mod ima_keys;
mod init;
mod intel;
pub mod inventory_file;
pub mod keys;
pub mod keyset_file;
pub mod layout;
pub mod load;
pub mod mirror;
pub mod network_file;
pub mod node_name;
mod nvidia;
pub mod operators_file;
pub mod policy_tests;
pub mod preview;
mod public_key;
pub mod publish;
pub mod references;
pub mod region;
mod repository;
mod scope;
pub mod sets;
pub mod settings;
pub mod show;
pub mod signers_file;
mod signing;
pub mod source;
pub mod tenants_file;
#[cfg(test)]
mod testing;
pub mod timers;
pub mod timestamp;
pub mod trust;
mod tuf;
pub mod vendor;

pub use author::{
    Initialised, KeysetAdded, NodeAdded, NodePlace, ReferenceAdded, TrustAdded, init, keyset_add, node_add,
    reference_add, trust_add, withdraw,
};
pub use cedar::{
    Cedar, CedarDecision, DecisionCode, DecisionReason, LineageFacts, MAX_LINEAGE_FACTS, NodeSeen, Principal, Request,
};
pub use compute::{Compute, ReferenceComputed, reference_compute};
pub use delegation::SignedRegion;
pub use detectors_file::{Detector, DetectorReach, Detectors};
pub use enforcers_file::{Enforcers, ListedEnforcer};
pub use entries::{EntryStaged, NewDetector, NewEnforcer, NewOperator};
pub use error::{PolicyCode, PolicyError, Problem};
pub use expiry::RoleEnd;
pub use federation_file::{
    Accept, FederatedDomain, Federation, TrustBegins, federation_drop, federation_list, federation_trust,
};
pub use floors::{KeysSince, RoleVersions};
pub use foreign::{CopyError, ForeignPolicy, RepositoryCopy, load_carried, load_foreign};
pub use identity::NodeIdentity;
pub use ima_keys::{ImaKeysAdded, ima_key_add};
pub use init::{InitOptions, init_with};
pub use keyset_file::{Job, Keyset, KeysetEntry};
pub use load::{Fetched, LoadOptions, PolicySet, load, load_blocking};
pub use mirror::{Behind, Mirror};
pub use network_file::{Network, Reachable, Transport};
pub use node_name::{NodeName, is_node_name, is_workload_name};
pub use operators_file::{Operator, Operators, Power};
pub use publish::{PublishOptions, PublishedVersion, publish, publish_with};
pub use region::{Additions, Demands, View};
pub use settings::{Containment, Delegation, Extent, Reach, Scope, Settings, SoftwareKeys, settings_set};
pub use show::{Show, show, show_with};
pub use source::{Location, Source};
pub use tenants_file::{NotApart, Tenant, Tenants};
pub use timers::Timers;
pub use touchstone_verifier::anchors::Purpose;
pub use trust::{BundleAdded, CrlAdded, crl_add, deny_set, trust_bundle};
pub use vendor::{VendorFile, VendorImported, reference_import};
