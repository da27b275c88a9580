//! A vendor's CoRIM as a target: verified, listed with its signer, and kept byte for byte with its signature.

use std::path::Path;

use serde::Serialize;
use touchstone_cose::key::VerifyingKey;
use touchstone_verifier::corim::vendor::{MAX_VENDOR_CORIM, VendorSigner};
use touchstone_verifier::corim::{CorimError, UntrustedCorim, VerifiedCorim};
use touchstone_verifier::x509::Certificate;

use crate::author::evidence::is_pem;
use crate::error::{PolicyCode, PolicyError};
use crate::layout::{SIGNERS, TargetKind, is_reference_name};
use crate::repository::Repository;
use crate::targets::signers_file::{self, Signers, verify_reference};

/// What to import.
#[derive(Debug, Clone, Copy)]
pub struct VendorFile<'a> {
    /// The signed CoRIM.
    pub corim: &'a [u8],
    /// The signer's certificate or public key, DER or PEM.
    pub signer: &'a [u8],
    /// The name of the target.
    pub name: &'a str,
    /// The name under which a signer that is not listed yet is listed with it; none refuses such a signer.
    pub list_signer: Option<&'a str>,
}

/// A reference by name, with the registers of each bank.
pub type ImportedReference = (String, Vec<(String, Vec<u8>)>);

/// What [`reference_import`] staged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VendorImported {
    /// The target's name.
    pub name: String,
    /// Name of the signer in this domain, and what it calls itself.
    pub signer: (String, String),
    /// Whether the signer is listed with it.
    pub listed: bool,
    /// Each reference: its name, and its registers by bank.
    pub references: Vec<ImportedReference>,
    /// The files staged.
    pub staged: Vec<String>,
    /// What the author should know.
    pub notes: Vec<String>,
}

/// Verifies a vendor's signed CoRIM under the key the author gives, and stages it as it is. `now` is Unix seconds.
///
/// # Errors
/// [`PolicyError`]: `policy-vendor-refused`, `policy-signer-unreadable`, `policy-signer-conflict`,
/// `policy-reference-conflict`.
pub fn reference_import(repo: &Path, file: VendorFile<'_>, now: i64) -> Result<VendorImported, PolicyError> {
    let repository = Repository::open(repo)?;
    if !is_reference_name(file.name) {
        let expected = "letters, digits, dot, hyphen and underscore, at most 63";
        return Err(PolicyError::new(
            PolicyCode::SettingsName,
            "reference name",
            expected,
            file.name,
        ));
    }
    // NVIDIA and others publish SWID tags with an XML signature: nothing here verifies one, so nothing of it may count.
    if file.corim.trim_ascii_start().starts_with(b"<") {
        let expected = "a signed CoRIM; for an XML RIM take a golden machine's evidence (reference add --evidence), or sign \
                        the values you verified as a CoRIM";
        let found = "XML, whose signature (XML-DSig) this version does not verify";
        return Err(PolicyError::new(PolicyCode::VendorRefused, file.name, expected, found));
    }
    let (key, not_after) = signer_key(file.signer)?;
    let corim = UntrustedCorim::new(file.corim);
    let refused = |found: String| {
        let expected = "values of TPM registers or of SEV-SNP guests, signed by the key that was given";
        PolicyError::new(PolicyCode::VendorRefused, file.name, expected, found)
    };
    let issuer = corim
        .claimed_issuer()
        .ok_or_else(|| refused(unsigned_or_unnamed(file)))?;
    let files = repository.next()?;
    let listed = files
        .get(&TargetKind::Signers)
        .map(|bytes| signers_file::parse(bytes))
        .transpose()?;
    let mut listed = listed.unwrap_or_default();
    let (signer, new) = match listed.vendors.iter().find(|vendor| vendor.key == key) {
        Some(vendor) if vendor.issuer == issuer => (vendor.clone(), false),
        Some(vendor) => {
            return Err(conflict(
                &vendor.name,
                &format!("the issuer {}", vendor.issuer),
                &issuer,
            ));
        }
        None => (new_signer(&listed, file, issuer, key, not_after)?, true),
    };
    let alone = Signers {
        own: Vec::new(),
        vendors: vec![signer.clone()],
    };
    let verified = verify_reference(file.corim, &alone, now).map_err(|error| refused(words(&error)))?;
    let mut staged = Vec::new();
    let kind = TargetKind::Reference(file.name.to_owned());
    if files.get(&kind).is_some_and(|other| other != file.corim) {
        let expected = "the same file as is under this name";
        return Err(PolicyError::new(
            PolicyCode::ReferenceConflict,
            file.name,
            expected,
            "another",
        ));
    }
    if new {
        listed.vendors.push(signer.clone());
        let bytes = signers_file::to_json(&listed);
        // What cannot be read back must not be signed.
        signers_file::parse(&bytes)?;
        staged.push(repository.stage(&TargetKind::Signers, &bytes)?);
    }
    staged.push(repository.stage(&kind, file.corim)?);
    Ok(VendorImported {
        name: file.name.into(),
        signer: (signer.name, signer.issuer),
        listed: new,
        notes: notes(&verified, now),
        references: references(&verified),
        staged,
    })
}

fn new_signer(
    listed: &Signers,
    file: VendorFile<'_>,
    issuer: String,
    key: VerifyingKey,
    not_after: Option<i64>,
) -> Result<VendorSigner, PolicyError> {
    let Some(name) = file.list_signer else {
        let expected = format!("a vendor listed in {SIGNERS}; --list-signer NAME lists it with this import");
        return Err(PolicyError::new(PolicyCode::VendorRefused, file.name, expected, issuer));
    };
    if let Some(own) = listed.own.iter().find(|own| own.key == key || own.name == name) {
        return Err(conflict(
            &own.name,
            "a vendor's own key and a name of its own",
            "a signer of this domain",
        ));
    }
    if listed.vendors.iter().any(|vendor| vendor.name == name) {
        return Err(conflict(name, "the key listed under this name", "another key"));
    }
    Ok(VendorSigner {
        name: name.into(),
        issuer,
        key,
        not_after,
    })
}

fn conflict(name: &str, expected: &str, found: &str) -> PolicyError {
    PolicyError::new(PolicyCode::SignerConflict, name, expected, found)
}

fn unsigned_or_unnamed(file: VendorFile<'_>) -> String {
    match UntrustedCorim::new(file.corim).verify_vendor(&[], 0) {
        Err(CorimError::Unsigned) => {
            "reference-unsigned: a file without a signature. Get the signed one from the vendor; values you vouch for yourself come in with reference add or compute".into()
        }
        _ if file.corim.len() > MAX_VENDOR_CORIM => format!("a file of {} bytes", file.corim.len()),
        _ => "reference-unreadable: no signature that names its maker".into(),
    }
}

fn words(error: &CorimError) -> String {
    format!("{}: {error}", error.code())
}

/// The key in a certificate (with its end) or public key, DER or PEM.
fn signer_key(bytes: &[u8]) -> Result<(VerifyingKey, Option<i64>), PolicyError> {
    let unreadable = |found: String| {
        let expected = "a certificate or public key for Ed25519, P-256 or P-384";
        PolicyError::new(PolicyCode::SignerUnreadable, "signer", expected, found)
    };
    let der = if is_pem(bytes) {
        pem::parse(bytes)
            .map_err(|e| unreadable(e.to_string()))?
            .into_contents()
    } else {
        bytes.to_vec()
    };
    if let Ok(key) = VerifyingKey::from_spki_der(&der) {
        return Ok((key, None));
    }
    let certificate = Certificate::from_der(&der).map_err(|e| unreadable(e.to_string()))?;
    let key = VerifyingKey::from_spki_der(&certificate.key().to_spki_der());
    Ok((
        key.map_err(|e| unreadable(e.to_string()))?,
        Some(certificate.not_after()),
    ))
}

fn references(verified: &VerifiedCorim) -> Vec<ImportedReference> {
    let references = verified.references().iter().map(|reference| {
        let banks = reference
            .banks
            .iter()
            .map(|(bank, values)| (bank.to_string(), values.registers.keys().copied().collect()));
        (reference.name.clone(), banks.collect())
    });
    references.collect()
}

fn notes(verified: &VerifiedCorim, now: i64) -> Vec<String> {
    let mut notes = Vec::new();
    if verified.not_after() < now || verified.not_before().is_some_and(|start| start > now) {
        notes.push("it is not in force now: machines that match it are refused as out of force".into());
    }
    for reference in verified.references() {
        if let Some(snp) = &reference.snp {
            let measurement = hex::encode(snp.measurement);
            notes.push(format!(
                "{}: SEV-SNP guests launched from {measurement}",
                reference.name
            ));
        }
    }
    notes.push(
        "a machine matches a reference as a whole: where the vendor states only its own registers, give it as --base of reference compute"
            .into(),
    );
    notes
}

#[cfg(test)]
mod tests;
