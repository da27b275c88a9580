//! What a domain demands of SEV-SNP guests and platforms.

use std::collections::{BTreeMap, BTreeSet};

use super::product::Product;
use super::tcb::Tcb;

/// What to do about the memory alias check (setting `snp.alias_check`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AliasCheck {
    /// The report must say that it was done; one of version 2 can not, and is refused.
    #[default]
    Required,
    /// A report that can say it must; one of version 2 is let through, and the result names the leniency.
    WhenReported,
    /// Not looked at; the result names the leniency where the bit is missing.
    Ignored,
}

/// What a domain demands of SEV-SNP guests and platforms. The default is the strictest that needs no list of the
/// domain's own: no debugging, VMPL 0, no migration agent, the alias check, chips of every known product line, none
/// masked, no provider's key but those that the inventory lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnpPolicy {
    /// Product lines that are accepted.
    pub products: BTreeSet<Product>,
    /// Highest privilege level number the report may come from: 0 is the most privileged.
    pub max_vmpl: u32,
    /// Whether the host may debug the guest.
    pub allow_debug: bool,
    /// Whether a migration agent may be bound.
    pub allow_migration_agent: bool,
    /// Whether simultaneous multithreading may be on.
    pub allow_smt: bool,
    /// Whether memory must have error-correcting codes.
    pub require_ecc: bool,
    /// Whether Running Average Power Limit must be off.
    pub require_rapl_disabled: bool,
    /// Whether ciphertext must be hidden from the host.
    pub require_ciphertext_hiding: bool,
    /// The alias check.
    pub alias_check: AliasCheck,
    /// Bits of the guest's launch policy that must be set.
    pub guest_policy_required: u64,
    /// Bits of the guest's launch policy that must be clear.
    pub guest_policy_refused: u64,
    /// Least security versions by product line: of what is reported, committed and was there at launch.
    pub floors: BTreeMap<Product, Tcb>,
    /// Mitigations (bits of the mitigation vectors) that must be in place at launch and now. Reports before version 5
    /// have no vectors: with a bit demanded they are refused.
    pub mitigations: u64,
    /// Chips that are not trusted, masked in the report or not.
    pub denied_chips: BTreeSet<Vec<u8>>,
    /// Where there is a list, only these chips are trusted.
    pub allowed_chips: Option<BTreeSet<Vec<u8>>>,
    /// Whether a report may mask its chip: then the chip is the one that AMD certified the signing key for.
    pub allow_masked_chips: bool,
    /// Cloud providers whose keys are accepted.
    pub providers: BTreeSet<String>,
    /// Where there is a list, the guest's ID block must be signed by one of these keys (SHA-384).
    pub id_keys: Option<BTreeSet<Vec<u8>>>,
    /// Where there is a list, the ID key must be signed by one of these author keys (SHA-384).
    pub author_keys: Option<BTreeSet<Vec<u8>>>,
}

impl Default for SnpPolicy {
    fn default() -> Self {
        Self {
            products: Product::ALL.into_iter().collect(),
            max_vmpl: 0,
            allow_debug: false,
            allow_migration_agent: false,
            allow_smt: true,
            require_ecc: false,
            require_rapl_disabled: false,
            require_ciphertext_hiding: false,
            alias_check: AliasCheck::Required,
            guest_policy_required: 0,
            guest_policy_refused: 0,
            floors: BTreeMap::new(),
            mitigations: 0,
            denied_chips: BTreeSet::new(),
            allowed_chips: None,
            allow_masked_chips: false,
            providers: BTreeSet::new(),
            id_keys: None,
            author_keys: None,
        }
    }
}
