//! A TDX quote, and the report of Azure's paravisor, in words. For people who want to see: only `touchstone verify` judges.

use serde_json::{Value, json};
use touchstone_evidence::collection::{Collection, Label};
use touchstone_verifier::hcl::{HardwareKind, HclReport};
use touchstone_verifier::reason::sanitise;
use touchstone_verifier::tdx::{Collateral, Quote, VerifiedQuote, replay};

/// Longest text of a machine's own that is shown.
const MAX_TEXT: usize = 128;

/// A record of a confidential VM, told.
pub(super) struct Told {
    pub(super) lines: Vec<String>,
    pub(super) json: Value,
}

impl Told {
    fn unreadable(what: &str, error: impl std::fmt::Display) -> Self {
        Self {
            lines: vec![format!("{what} cannot be read: {error}")],
            json: json!({ "error": error.to_string() }),
        }
    }

    /// The quote, its collateral and its log. None where there is no quote; nothing here fails.
    pub(super) fn quote(collection: &Collection) -> Option<Self> {
        let bytes = collection.get(Label::TdxQuote)?;
        let quote = match Quote::parse(bytes) {
            Ok(quote) => quote,
            Err(error) => return Some(Self::unreadable("the TDX quote", error)),
        };
        let zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        let or_none = |bytes: &[u8]| {
            if zero(bytes) {
                "none".to_owned()
            } else {
                hex::encode(bytes)
            }
        };
        let mut lines = vec![
            format!(
                "TDX quote version {}, report {}",
                quote.version(),
                quote.kind().as_str()
            ),
            format!("report data (nonce) {}", hex::encode(quote.report_data())),
            format!("launched from       {} (MRTD)", hex::encode(quote.mrtd())),
            format!("configuration       {} (MRCONFIGID)", or_none(quote.mr_config_id())),
            format!(
                "owner               {}, {}",
                or_none(quote.mr_owner()),
                or_none(quote.mr_owner_config())
            ),
        ];
        for index in 0..touchstone_verifier::tdx::RTMRS {
            if let Some(value) = quote.rtmr(index) {
                lines.push(format!("RTMR{index}               {}", hex::encode(value)));
            }
        }
        lines.push(format!("guest attributes    {}", attributes(&quote)));
        lines.push(format!("module and versions {}", hex::encode(quote.tee_tcb_svn())));
        let collateral = collection.get(Label::TdxCollateral).map(Collateral::parse);
        let beside = collateral.as_ref().and_then(|collateral| collateral.as_ref().ok());
        let verified = VerifiedQuote::by_own_root(quote, beside);
        match &verified {
            Ok(verified) => {
                let platform = verified.platform();
                lines.push(format!(
                    "platform            PPID {}, FMSPC {}",
                    hex::encode(&platform.ppid),
                    hex::encode(platform.fmspc)
                ));
                let chain = verified.chain().issuers.join(", ");
                lines.push(format!(
                    "signed under        {chain} (whether that is Intel, touchstone verify judges)"
                ));
            }
            Err(reasons) => {
                let why: Vec<String> = reasons.iter().map(ToString::to_string).collect();
                lines.push(format!("DOES NOT HOLD TOGETHER: {}", why.join("; ")));
            }
        }
        lines.push(match &collateral {
            None => "no collateral: nothing says what Intel thinks of the platform".to_owned(),
            Some(Err(error)) => format!("the collateral cannot be read: {error}"),
            Some(Ok(collateral)) => {
                let fmspc = hex::encode(collateral.fmspc());
                format!(
                    "collateral          for FMSPC {fmspc}, until {} (Unix seconds)",
                    collateral.next_update()
                )
            }
        });
        if let Some(log) = collection.get(Label::CcEventLog) {
            match replay(&quote, log) {
                Ok(replayed) => {
                    lines.push(format!(
                        "event log           {} events lead to the registers above",
                        replayed.events
                    ));
                    let events = replayed
                        .log
                        .events()
                        .iter()
                        .take(replayed.events)
                        .filter(|event| event.is_extended());
                    lines.extend(events.map(|event| {
                        let register = event.format().register_name(event.pcr);
                        format!(
                            "  {:>3} {register:<6} {} {}",
                            event.index,
                            event.event_type,
                            event.describe()
                        )
                    }));
                }
                Err(reasons) => {
                    let why: Vec<String> = reasons.iter().map(ToString::to_string).collect();
                    lines.push(format!(
                        "the event log DOES NOT LEAD to these registers: {}",
                        why.join("; ")
                    ));
                }
            }
        }
        let registers: Vec<String> = (0..4).filter_map(|index| quote.rtmr(index)).map(hex::encode).collect();
        let platform = verified.as_ref().ok().map(VerifiedQuote::platform);
        let json = json!({
            "version": quote.version(),
            "body": quote.kind().as_str(),
            "report_data": hex::encode(quote.report_data()),
            "mrtd": hex::encode(quote.mrtd()),
            "rtmr": registers,
            "attributes": format!("{:#018x}", quote.attributes().0),
            "tee_tcb_svn": hex::encode(quote.tee_tcb_svn()),
            "holds_together": verified.is_ok(),
            "ppid": platform.map(|platform| hex::encode(&platform.ppid)),
            "fmspc": platform.map(|platform| hex::encode(platform.fmspc)),
        });
        Some(Self { lines, json })
    }

    /// The paravisor's report. None where there is none.
    pub(super) fn azure(collection: &Collection) -> Option<Self> {
        let bytes = collection.get(Label::AzureHclReport)?;
        let report = match HclReport::parse(bytes) {
            Ok(report) => report,
            Err(error) => return Some(Self::unreadable("the paravisor's report", error)),
        };
        let kind = match report.kind() {
            HardwareKind::Snp => "SEV-SNP",
            HardwareKind::Tdx => "TDX",
        };
        let key = report.attestation_key();
        let mut lines = vec![
            format!("Azure confidential VM on {kind}: the paravisor's report, as bound to the hardware's report data"),
            format!(
                "names the TPM key   {} {}",
                key.describe(),
                hex::encode(key.spki_sha256())
            ),
        ];
        if let Some(data) = report.user_data().filter(|data| data.iter().any(|byte| *byte != 0)) {
            lines.push(format!("written by guest    {}", hex::encode(data)));
        }
        if let Some(configuration) = report.configuration() {
            let words = |value: Option<bool>| value.map_or("not said", |value| if value { "yes" } else { "no" });
            lines.push(format!(
                "set up with         Secure Boot {}, console {}, TPM kept over restarts {}",
                words(configuration.secure_boot),
                words(configuration.console),
                words(configuration.tpm_persisted)
            ));
            if let Some(id) = &configuration.vm_id {
                lines.push(format!("machine             {}", sanitise(id, MAX_TEXT)));
            }
        }
        let json = json!({
            "hardware": kind.to_lowercase(),
            "attestation_key": hex::encode(key.spki_sha256()),
            "user_data": report.user_data().map(hex::encode),
        });
        Some(Self { lines, json })
    }
}

fn attributes(quote: &Quote<'_>) -> String {
    let attributes = quote.attributes();
    let mut words = vec![format!("{:#x}", attributes.0)];
    for (set, what) in [
        (attributes.debug(), "THE HOST MAY DEBUG IT"),
        (attributes.migratable(), "MIGRATABLE"),
        (attributes.service_td(), "A SERVICE TD MAY ACT ON IT"),
        (attributes.reserved(), "RESERVED BITS SET"),
        (
            !attributes.sept_ve_disable(),
            "THE HOST MAY INJECT FAULTS ON ITS MEMORY",
        ),
        (attributes.sept_ve_disable(), "SEPT_VE_DISABLE"),
        (attributes.pks(), "PKS"),
        (attributes.perfmon(), "PERFMON"),
    ] {
        if set {
            words.push(what.to_owned());
        }
    }
    words.join(", ")
}
