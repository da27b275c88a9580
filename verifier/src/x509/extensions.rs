//! The extensions of a certificate that chain building and device identities need.
//!
//! Source: RFC 5280 4.2.

use std::collections::BTreeSet;

use x509_parser::asn1_rs::{Any, Oid};
use x509_parser::extensions::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, GeneralName, KeyIdentifier, KeyUsage,
    SubjectAlternativeName, X509Extension,
};
use x509_parser::prelude::FromDer;

use super::name::{HardwareModuleName, MAX_NAME_TEXT, attributes, form, hardware_module_name, name_key};
use super::name_constraints::NameConstraints;
use crate::reason::sanitise;

/// Most extensions in a certificate.
pub const MAX_EXTENSIONS: usize = 32;
/// Google's description of the instance a vTPM belongs to: in the certificates of its vTPMs, where newer ones have no
/// subjectAltName.
const GCE_INSTANCE: &str = "1.3.6.1.4.1.11129.2.1.21";

/// What the extensions say. Absent ones are empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Extensions {
    /// CA or not, and path length.
    pub(crate) basic_constraints: Option<(bool, Option<u32>)>,
    pub(crate) key_usage: Option<KeyUsage>,
    /// Purposes, dotted.
    pub(crate) extended_key_usage: Option<Vec<String>>,
    pub(crate) subject_key_id: Option<Vec<u8>>,
    pub(crate) authority_key_id: Option<Vec<u8>>,
    /// Policies, dotted.
    pub(crate) policies: Vec<String>,
    pub(crate) name_constraints: Option<NameConstraints>,
    /// Critical ones that are not understood.
    pub(crate) unknown_critical: Vec<String>,
    /// Attributes of the directory names in subjectAltName.
    pub(crate) alternative_attributes: Vec<(String, String)>,
    /// Those directory names, in the form of [`name_key`].
    pub(crate) alternative_directories: Vec<Vec<u8>>,
    /// Forms of all names in subjectAltName (RFC 5280 4.2.1.6 tag numbers).
    pub(crate) alternative_forms: BTreeSet<u32>,
    pub(crate) hardware_module_names: Vec<HardwareModuleName>,
    /// Whether it describes an instance of Google Compute Engine.
    pub(crate) gce_instance: bool,
}

impl Extensions {
    /// Reads them one by one. One that is of no concern here may be as odd as it likes.
    ///
    /// # Errors
    /// The name of what could not be read.
    pub(super) fn read(extensions: &[X509Extension<'_>]) -> Result<Self, &'static str> {
        let mut all = Self::default();
        if extensions.len() > MAX_EXTENSIONS {
            return Err("at most 32 extensions");
        }
        let mut seen = Vec::with_capacity(extensions.len());
        for extension in extensions {
            let oid = extension.oid.to_id_string();
            all.read_one(&oid, extension)?;
            if seen.contains(&oid) {
                return Err("each extension once");
            }
            seen.push(oid);
        }
        Ok(all)
    }

    fn read_one(&mut self, oid: &str, extension: &X509Extension<'_>) -> Result<(), &'static str> {
        let value = extension.value;
        match oid {
            "2.5.29.19" => {
                let basic: BasicConstraints = whole(value).ok_or("basicConstraints")?;
                self.basic_constraints = Some((basic.ca, basic.path_len_constraint));
            }
            "2.5.29.15" => self.key_usage = Some(whole(value).ok_or("keyUsage")?),
            "2.5.29.37" => self.extended_key_usage = Some(purposes(value).ok_or("extKeyUsage")?),
            "2.5.29.14" => {
                let id: KeyIdentifier<'_> = whole(value).ok_or("subjectKeyIdentifier")?;
                self.subject_key_id = Some(id.0.to_vec());
            }
            "2.5.29.35" => {
                let id: AuthorityKeyIdentifier<'_> = whole(value).ok_or("authorityKeyIdentifier")?;
                self.authority_key_id = id.key_identifier.map(|id| id.0.to_vec());
            }
            "2.5.29.17" => {
                let names: SubjectAlternativeName<'_> = whole(value).ok_or("subjectAltName")?;
                names.general_names.iter().for_each(|name| self.alternative_name(name));
            }
            // What restricts cannot be passed over, critical or not.
            "2.5.29.30" => match NameConstraints::read(value) {
                Some(constraints) => self.name_constraints = Some(constraints),
                None => self.unknown_critical.push(oid.to_owned()),
            },
            // certificatePolicies restrict only verifiers that demand a policy, and chains demand none (RFC 5280
            // 6.1.1 (c): any policy is acceptable). TPM makers mark it critical. What cannot be read names no policy.
            "2.5.29.32" => {
                self.policies = policies(value).unwrap_or_default();
            }
            GCE_INSTANCE => self.gce_instance = true,
            _ if extension.critical => self.unknown_critical.push(sanitise(oid, MAX_NAME_TEXT)),
            _ => {}
        }
        Ok(())
    }

    fn alternative_name(&mut self, name: &GeneralName<'_>) {
        self.alternative_forms.insert(form(name));
        if let GeneralName::DirectoryName(directory) = name {
            self.alternative_attributes.extend(attributes(directory));
            self.alternative_directories.push(name_key(directory));
        }
        self.hardware_module_names.extend(hardware_module_name(name));
    }
}

/// A value that fills its bytes exactly.
pub(super) fn whole<'a, T: FromDer<'a, x509_parser::error::X509Error>>(value: &'a [u8]) -> Option<T> {
    match T::from_der(value) {
        Ok(([], parsed)) => Some(parsed),
        _ => None,
    }
}

fn purposes(value: &[u8]) -> Option<Vec<String>> {
    let usage: ExtendedKeyUsage<'_> = whole(value)?;
    let named = [
        (usage.any, "2.5.29.37.0"),
        (usage.server_auth, "1.3.6.1.5.5.7.3.1"),
        (usage.client_auth, "1.3.6.1.5.5.7.3.2"),
        (usage.code_signing, "1.3.6.1.5.5.7.3.3"),
        (usage.email_protection, "1.3.6.1.5.5.7.3.4"),
        (usage.time_stamping, "1.3.6.1.5.5.7.3.8"),
        (usage.ocsp_signing, "1.3.6.1.5.5.7.3.9"),
    ];
    let named = named.into_iter().filter(|(set, _)| *set).map(|(_, oid)| oid.to_owned());
    Some(named.chain(usage.other.iter().map(Oid::to_id_string)).collect())
}

/// The policies of SEQUENCE OF SEQUENCE { policyIdentifier, qualifiers }.
fn policies(value: &[u8]) -> Option<Vec<String>> {
    let ([], all) = Any::from_der(value).ok()? else {
        return None;
    };
    let (mut rest, mut found) = (all.data, Vec::new());
    while !rest.is_empty() && found.len() < MAX_EXTENSIONS {
        let (next, policy) = Any::from_der(rest).ok()?;
        found.push(Oid::from_der(policy.data).ok()?.1.to_id_string());
        rest = next;
    }
    Some(found)
}
