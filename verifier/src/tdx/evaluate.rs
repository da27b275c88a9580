//! What Intel thinks of the platform that signed a quote, by the collateral that came with it.
//!
//! The converging of statuses is Intel's own procedure and `dcap-qvl` follows it. It is given the collateral, the time and
//! a root that the policy lists; its own root counts for nothing, and its reading of the quote must be ours.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::configs::RustCryptoConfig;
use dcap_qvl::policy::{PckIdentity, QuoteClaims, QuotePolicy};
use dcap_qvl::quote::Report;
use dcap_qvl::verify::QuoteVerifier;

use super::code::TdxCode;
use super::collateral::Collateral;
use super::quote::Quote;
use super::verified::{Platform, VerifiedQuote};
use crate::reason::Reason;
use crate::utc::utc;
use crate::x509::CertificateStore;

const COLLATERAL: &str = "TDX collateral";
/// Most anchors that are tried as the collateral's root.
const MAX_ROOTS: usize = 4;
/// Most advisories that are named.
const MAX_ADVISORIES: usize = 64;

/// Intel's verdict on a platform's security versions. There is no word for a revoked platform here: no policy can
/// accept one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TcbStatus {
    /// Everything is as new as it should be.
    UpToDate,
    /// Software in the guest must avoid a known weakness.
    SwHardeningNeeded,
    /// The platform must be configured differently.
    ConfigurationNeeded,
    /// Both.
    ConfigurationAndSwHardeningNeeded,
    /// Firmware or microcode is too old.
    OutOfDate,
    /// Too old, and to be configured differently.
    OutOfDateConfigurationNeeded,
    /// The guest was launched on old firmware that was updated since: launch it anew.
    TdRelaunchAdvised,
    /// The same, and the platform must be configured differently.
    TdRelaunchAdvisedConfigurationNeeded,
}

impl TcbStatus {
    /// Every status that a policy may accept.
    pub const ALL: [TcbStatus; 8] = [
        TcbStatus::UpToDate,
        TcbStatus::SwHardeningNeeded,
        TcbStatus::ConfigurationNeeded,
        TcbStatus::ConfigurationAndSwHardeningNeeded,
        TcbStatus::OutOfDate,
        TcbStatus::OutOfDateConfigurationNeeded,
        TcbStatus::TdRelaunchAdvised,
        TcbStatus::TdRelaunchAdvisedConfigurationNeeded,
    ];

    /// Intel's word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            TcbStatus::UpToDate => "UpToDate",
            TcbStatus::SwHardeningNeeded => "SWHardeningNeeded",
            TcbStatus::ConfigurationNeeded => "ConfigurationNeeded",
            TcbStatus::ConfigurationAndSwHardeningNeeded => "ConfigurationAndSWHardeningNeeded",
            TcbStatus::OutOfDate => "OutOfDate",
            TcbStatus::OutOfDateConfigurationNeeded => "OutOfDateConfigurationNeeded",
            TcbStatus::TdRelaunchAdvised => "TDRelaunchAdvised",
            TcbStatus::TdRelaunchAdvisedConfigurationNeeded => "TDRelaunchAdvisedConfigurationNeeded",
        }
    }

    /// The status of this word; none for `Revoked` and for what is not known.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }
}

impl fmt::Display for TcbStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What came of the collateral.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluation {
    /// The status, converged over platform, TDX module and quoting enclave.
    pub status: TcbStatus,
    /// Advisories that stand open.
    pub advisories: BTreeSet<String>,
    /// The older of the evaluation numbers of TCB info and enclave identity.
    pub number: u32,
    /// Status of the quoting enclave alone, in Intel's word.
    pub enclave_status: String,
    /// When the platform's level was current, Unix seconds.
    pub level_date: i64,
    /// Last second at which everything that was relied on holds, Unix seconds.
    pub expires: i64,
}

impl Evaluation {
    /// Evaluates a genuine quote by `collateral` at `now` (Unix seconds), whose root must be an anchor of `store`.
    ///
    /// # Errors
    /// Every reason against it.
    pub fn evaluate(
        verified: &VerifiedQuote<'_>,
        collateral: &Collateral,
        store: &CertificateStore,
        now: i64,
    ) -> Result<Self, Vec<Reason>> {
        let mut reasons = Vec::new();
        let (wanted, found) = (verified.platform().fmspc, collateral.fmspc());
        if wanted != found {
            let expected = format!("collateral for FMSPC {}", hex::encode(wanted));
            let found = format!("FMSPC {}", hex::encode(found));
            reasons.push(Reason::new(
                TdxCode::CollateralOtherPlatform,
                COLLATERAL,
                expected,
                found,
            ));
        }
        // Intel revokes certificates of servers and of other machines by two authorities with a list each.
        let (wanted, found) = (
            verified.chain().issuers.first().map(String::as_str).unwrap_or_default(),
            collateral.revocation_issuer(),
        );
        if wanted != found {
            let expected = format!("a revocation list of {wanted}");
            let found = format!("one of {found}");
            reasons.push(Reason::new(
                TdxCode::CollateralOtherPlatform,
                COLLATERAL,
                expected,
                found,
            ));
        }
        for part in collateral.parts() {
            let claim = format!("{COLLATERAL}: {}", part.name);
            let time = format!("in force at {}", utc(now));
            if now < part.issued {
                let found = format!("issued at {}", utc(part.issued));
                reasons.push(Reason::new(TdxCode::CollateralNotYetValid, claim, time, found));
            } else if now > part.next_update {
                let found = format!("next update due at {}", utc(part.next_update));
                reasons.push(Reason::new(TdxCode::CollateralExpired, claim, time, found));
            }
        }
        let Ok(seconds) = u64::try_from(now) else {
            return Err(reasons);
        };
        if !reasons.is_empty() {
            return Err(reasons);
        }
        let root = verified.chain().issuers.last().map(String::as_str).unwrap_or_default();
        let mut refusal = "no trust anchor of TDX that ends the quote's chain".to_owned();
        let roots = store
            .iter()
            .filter(|(anchor, is_anchor)| *is_anchor && anchor.subject() == root);
        // Where the quote has no chain, the library judges by the one that was verified.
        let inner = match verified.supplied_pck() {
            None => Cow::Borrowed(&collateral.inner),
            Some(pem) => Cow::Owned(QuoteCollateralV3 {
                pck_certificate_chain: Some(pem.to_owned()),
                ..collateral.inner.clone()
            }),
        };
        for (anchor, _) in roots.take(MAX_ROOTS) {
            let verifier = QuoteVerifier::<RustCryptoConfig>::new_with_config(anchor.as_der().to_vec());
            let quote = verified.quote();
            // What the claims are worth is decided by the domain's policy, not there.
            let every = QuotePolicy::claims_only(seconds);
            match verifier.verify_with_policy(quote.bytes(), inner.as_ref(), seconds, &every) {
                Ok(claims) => return Self::take(verified, &claims),
                Err(error) => refusal = format!("{error:#}"),
            }
        }
        let expected = "a quote that holds by this collateral";
        Err(vec![Reason::new(code_of(&refusal), COLLATERAL, expected, refusal)])
    }

    fn take(verified: &VerifiedQuote<'_>, claims: &QuoteClaims) -> Result<Self, Vec<Reason>> {
        let refused = |code, expected: &str, found: String| vec![Reason::new(code, COLLATERAL, expected, found)];
        if !is_same(verified.quote(), &claims.report) || !is_same_platform(verified.platform(), &claims.platform.pck) {
            let found = "another reading of them".to_owned();
            return Err(refused(
                TdxCode::CollateralRefused,
                "one reading of the quote's bytes",
                found,
            ));
        }
        let word = claims.tcb.status.to_string();
        let Some(status) = TcbStatus::parse(&word) else {
            return Err(refused(
                TdxCode::TcbRevoked,
                "security versions that are not revoked",
                word,
            ));
        };
        let seconds = |time: u64| i64::try_from(time).unwrap_or(i64::MIN);
        let advisories = claims.tcb.advisory_ids.iter().take(MAX_ADVISORIES).cloned().collect();
        Ok(Self {
            status,
            advisories,
            number: claims.tcb.eval_data_number,
            enclave_status: claims.qe.tcb_level.tcb_status.to_string(),
            level_date: seconds(claims.platform.tcb_date_tag),
            expires: seconds(claims.earliest_expiration_date),
        })
    }
}

/// What a refusal in words is about. The verdict is the same; the code says where to look.
fn code_of(refusal: &str) -> TdxCode {
    for (words, code) in [
        ("TCB status is invalid: Revoked", TdxCode::TcbRevoked),
        ("CertRevoked", TdxCode::TcbRevoked),
        ("No matching TCB level", TdxCode::TcbLevelUnknown),
        ("Fmspc mismatch", TdxCode::CollateralOtherPlatform),
        ("TDX module", TdxCode::ModuleMismatch),
        ("Debug mode", TdxCode::Debug),
        ("TD profiling", TdxCode::Debug),
        ("Invalid MR service TD", TdxCode::ServiceTd),
        ("SERVTD_EXT", TdxCode::ServiceTd),
        ("TD migration", TdxCode::Attributes),
        ("TD attributes", TdxCode::Attributes),
        ("SEPT_VE_DISABLE", TdxCode::Attributes),
    ] {
        if refusal.contains(words) {
            return code;
        }
    }
    TdxCode::CollateralRefused
}

/// Whether the library took the same platform out of the quote's chain as we did: the security versions are of its reading,
/// the identity is of ours.
fn is_same_platform(platform: &Platform, pck: &PckIdentity) -> bool {
    pck.ppid == platform.ppid
        && pck.fmspc.as_ref() == platform.fmspc.as_slice()
        && pck.platform_instance_id.as_ref().map(<[u8; 16]>::as_slice) == platform.instance_id.as_deref()
}

/// Whether the library read the same report out of the quote as we did.
fn is_same(quote: &Quote<'_>, report: &Report) -> bool {
    let Some(td) = report.as_td10() else { return false };
    let base = td.tee_tcb_svn == *quote.tee_tcb_svn()
        && td.mr_seam == *quote.mr_seam()
        && td.mr_signer_seam == *quote.mr_signer_seam()
        && u64::from_le_bytes(td.seam_attributes) == quote.seam_attributes()
        && u64::from_le_bytes(td.td_attributes) == quote.attributes().0
        && u64::from_le_bytes(td.xfam) == quote.xfam()
        && td.mr_td == *quote.mrtd()
        && td.mr_config_id == *quote.mr_config_id()
        && td.mr_owner == *quote.mr_owner()
        && td.mr_owner_config == *quote.mr_owner_config()
        && Some(&td.rt_mr0) == quote.rtmr(0)
        && Some(&td.rt_mr1) == quote.rtmr(1)
        && Some(&td.rt_mr2) == quote.rtmr(2)
        && Some(&td.rt_mr3) == quote.rtmr(3)
        && td.report_data == *quote.report_data();
    let td15 = report.as_td15();
    let extended = report.as_td15_ex();
    base && td15.map(|td| &td.tee_tcb_svn2) == quote.tee_tcb_svn_now()
        && td15.map(|td| &td.mr_service_td) == quote.mr_service_td()
        && extended.map(|td| td.vmid) == quote.vm_id()
        && extended.map(|td| &td.cur_service_td_hash) == quote.current_service_td()
}
