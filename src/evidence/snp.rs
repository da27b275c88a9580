//! An SEV-SNP report in words. For people who want to see: whose key signed it, only `touchstone verify` judges.

use serde_json::{Value, json};
use touchstone_evidence::collection::{Collection, Label};
use touchstone_verifier::appraisal::ClaimValue;
use touchstone_verifier::hcl::{HardwareKind, HclReport};
use touchstone_verifier::snp::report::SigningKey;
use touchstone_verifier::snp::{GuestPolicy, PlatformInfo, Report, SignedReport, Tcb, Vek, VekKind, claims};
use touchstone_verifier::x509::Certificate;
use touchstone_verifier::x509::ek_certificate::read_ek_chain;

/// A report, told.
pub(super) struct ToldReport {
    pub(super) lines: Vec<String>,
    pub(super) json: Value,
}

impl ToldReport {
    /// Reads what there is; nothing here fails. None where there is no report.
    pub(super) fn of(collection: &Collection) -> Option<Self> {
        let azure = collection
            .get(Label::AzureHclReport)
            .and_then(|bytes| HclReport::parse(bytes).ok());
        let azure = azure
            .filter(|report| report.kind() == HardwareKind::Snp)
            .map(|report| report.hardware());
        let bytes = collection.get(Label::SnpReport).or(azure)?;
        let report = match Report::parse(bytes) {
            Ok(report) => report,
            Err(error) => {
                return Some(Self {
                    lines: vec![format!("the report cannot be read: {error}")],
                    json: json!({ "error": error.to_string() }),
                });
            }
        };
        let mut lines = fields(&report);
        let certificates = read_ek_chain(collection.get(Label::SnpCertificates).unwrap_or_default());
        let certificates = certificates.unwrap_or_default();
        lines.extend(certificates.iter().map(certificate));
        let signed = signed_by(&report, &certificates);
        match &signed {
            Ok(signed) => {
                lines.extend(versions(signed));
                lines.push(
                    "signed by the key of that certificate (whether AMD certified it, touchstone verify judges)".into(),
                );
            }
            Err(why) => lines.push(format!("NOT SHOWN to be signed by a key that came with it: {why}")),
        }
        let claims: serde_json::Map<String, Value> = signed
            .as_ref()
            .map(|signed| {
                claims(signed)
                    .into_iter()
                    .map(|(name, value)| (name, claim(value)))
                    .collect()
            })
            .unwrap_or_default();
        let json = json!({
            "version": report.version(),
            "report_data": hex::encode(report.report_data()),
            "measurement": hex::encode(report.measurement()),
            "chip_id": hex::encode(report.chip_id()),
            "signed_by_key_in_evidence": signed.is_ok(),
            "certificates": certificates.iter().map(certificate).collect::<Vec<_>>(),
            "claims": claims,
        });
        Some(Self { lines, json })
    }
}

fn claim(value: ClaimValue) -> Value {
    match value {
        ClaimValue::Bool(value) => value.into(),
        ClaimValue::Int(value) => value.into(),
        ClaimValue::Text(value) => value.into(),
        ClaimValue::Set(values) => values.into_iter().collect(),
    }
}

/// What can be said without knowing the product line.
fn fields(report: &Report<'_>) -> Vec<String> {
    let zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    let or_none = |bytes: &[u8]| {
        if zero(bytes) {
            "none".to_owned()
        } else {
            hex::encode(bytes)
        }
    };
    let signer = match report.signing_key() {
        SigningKey::Vcek => "a chip's own key (VCEK)",
        SigningKey::Vlek => "a cloud provider's key (VLEK)",
        SigningKey::None => "nobody: it is not signed",
    };
    let mut lines = vec![
        format!("SEV-SNP report version {}, to be signed by {signer}", report.version()),
        format!("report data (nonce) {}", hex::encode(report.report_data())),
        format!("launched from       {}", hex::encode(report.measurement())),
        format!("host data           {}", or_none(report.host_data())),
        format!("ID key              {}", or_none(report.id_key_digest())),
        format!(
            "author key          {}",
            if report.author_key_enabled() {
                hex::encode(report.author_key_digest())
            } else {
                "none".into()
            }
        ),
        format!(
            "family {}, image {}, guest version {}",
            or_none(report.family_id()),
            or_none(report.image_id()),
            report.guest_svn()
        ),
        format!("asked for at VMPL {} (0 is the most privileged)", report.vmpl()),
        format!("guest policy        {}", guest_policy(report.policy())),
        format!(
            "platform            {}",
            platform(report.platform_info(), report.version())
        ),
        match report.chip_id_masked() {
            true => "chip                masked by the platform".to_owned(),
            false => format!("chip                {}", hex::encode(report.chip_id())),
        },
    ];
    if let Some((family, model, stepping)) = report.cpuid() {
        lines.push(format!(
            "processor           family {family:#04x} model {model:#04x} stepping {stepping}"
        ));
    }
    let words = |(major, minor, build): (u8, u8, u8)| format!("{major}.{minor} build {build}");
    lines.push(format!(
        "firmware            {}, not to go back below {}",
        words(report.current_version()),
        words(report.committed_version())
    ));
    if let Some((launch, current)) = report.mitigations() {
        lines.push(format!("mitigations         {launch:#x} at launch, {current:#x} now"));
    }
    lines
}

fn guest_policy(policy: GuestPolicy) -> String {
    let (major, minor) = policy.abi();
    let mut words = vec![format!("{:#x}: ABI {major}.{minor} or later", policy.0)];
    for (set, what) in [
        (policy.debug(), "THE HOST MAY DEBUG IT"),
        (policy.migration_agent(), "A MIGRATION AGENT MAY MOVE IT"),
        (policy.smt(), "multithreading allowed"),
        (policy.single_socket(), "one socket only"),
        (policy.cxl(), "CXL allowed"),
        (policy.aes_256_xts(), "AES-256-XTS demanded"),
        (policy.rapl_disabled(), "RAPL off demanded"),
        (policy.ciphertext_hiding(), "ciphertext hiding demanded"),
        (policy.page_swap_disabled(), "page swapping forbidden"),
    ] {
        if set {
            words.push(what.to_owned());
        }
    }
    words.join(", ")
}

fn platform(platform: PlatformInfo, version: u32) -> String {
    let mut words = Vec::new();
    for (set, yes, no) in [
        (platform.smt(), "multithreading on", "multithreading off"),
        (platform.tsme(), "TSME on", ""),
        (platform.ecc(), "ECC memory", "no ECC memory"),
        (platform.rapl_disabled(), "RAPL off", "RAPL on"),
        (platform.ciphertext_hiding(), "ciphertext hidden", ""),
        (platform.tio(), "trusted I/O on", ""),
    ] {
        let word = if set { yes } else { no };
        if !word.is_empty() {
            words.push(word);
        }
    }
    words.push(match (version >= 3, platform.alias_check_complete()) {
        (true, true) => "memory aliases checked",
        (true, false) => "MEMORY ALIASES NOT CHECKED",
        (false, _) => "memory alias check not reported by this version",
    });
    words.join(", ")
}

fn certificate(certificate: &Certificate) -> String {
    let what = match Vek::from_der(certificate.as_der()) {
        Ok(vek) => match vek.kind() {
            VekKind::Vcek { chip_id } => format!("VCEK of chip {} ({})", hex::encode(chip_id), vek.product()),
            VekKind::Vlek { provider } => format!("VLEK of {provider} ({})", vek.product()),
        },
        Err(_) => certificate.subject().to_owned(),
    };
    format!("certificate         {what}, issued by {}", certificate.issuer())
}

/// The report as signed by one of the keys beside it.
fn signed_by<'a>(report: &Report<'a>, certificates: &[Certificate]) -> Result<SignedReport<'a>, String> {
    let mut why = "no certificate of a signing key came".to_owned();
    for certificate in certificates.iter().filter(|certificate| !certificate.is_ca()) {
        let signed = Vek::from_der(certificate.as_der())
            .map_err(|error| error.to_string())
            .and_then(|vek| {
                SignedReport::verify(*report, vek).map_err(|reasons| {
                    let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
                    reasons.join("; ")
                })
            });
        match signed {
            Ok(signed) => return Ok(signed),
            Err(error) => why = error,
        }
    }
    Err(why)
}

fn versions(signed: &SignedReport<'_>) -> Vec<String> {
    let line = |name: &str, tcb: Tcb| format!("{name:<20}{tcb}");
    vec![
        format!("product line        {}", signed.product()),
        line("versions reported", signed.reported_tcb()),
        line("  running now", signed.current_tcb()),
        line("  committed", signed.committed_tcb()),
        line("  at launch", signed.launch_tcb()),
    ]
}
