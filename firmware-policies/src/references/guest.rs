//! What a reference states of a confidential VM and of GPUs, field by field in words.

use touchstone_verifier::corim::{Endorses, MachineReference};
use touchstone_verifier::snp::{GuestPolicyBits, SnpReference};
use touchstone_verifier::tdx::TdxReference;

/// Every field that is stated, in order, with its value.
pub(super) fn words(values: &MachineReference) -> Vec<(String, String)> {
    let mut fields = values.snp.as_ref().map(snp).unwrap_or_default();
    fields.extend(values.tdx.iter().flat_map(tdx));
    for (number, state) in values.gpus.iter().enumerate() {
        let name = format!("GPU state {}", number + 1);
        let stated = state.measurements.len();
        fields.push((name, format!("{}; {stated} measurements", state.describe())));
        for (index, digests) in &state.measurements {
            let digests: Vec<String> = digests.iter().map(hex::encode).collect();
            fields.push((format!("{} measurement {index}", state.product), digests.join(" or ")));
        }
    }
    fields
}

fn snp(reference: &SnpReference) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let mut add = |name: &str, value: Option<String>| {
        fields.extend(value.map(|value| (format!("SNP {name}"), value)));
    };
    add("measurement", Some(hex::encode(reference.measurement)));
    let endorses = Some(reference.endorses).filter(|endorses| *endorses != Endorses::None);
    add("endorses", endorses.map(|endorses| endorses.to_string()));
    add("product", reference.product.map(|product| product.to_string()));
    let bits = |GuestPolicyBits { value, mask }| match mask {
        u64::MAX => format!("{value:#x}"),
        mask => format!("{value:#x} under the mask {mask:#x}"),
    };
    add("guest policy", reference.policy.map(bits));
    add("VMPL", reference.vmpl.map(|vmpl| vmpl.to_string()));
    add(
        "guest version",
        reference.guest_svn.map(|svn| format!("{svn} or later")),
    );
    for (_, field, floor) in reference.floors.named() {
        add(field, floor.map(|floor| format!("at least {floor}")));
    }
    add("family id", reference.family_id.map(hex::encode));
    add("image id", reference.image_id.map(hex::encode));
    add("host data", reference.host_data.map(hex::encode));
    add("ID key", reference.id_key_digest.map(hex::encode));
    add("author key", reference.author_key_digest.map(hex::encode));
    fields
}

fn tdx(reference: &TdxReference) -> Vec<(String, String)> {
    let or_none = |bytes: &[u8]| match bytes.iter().all(|byte| *byte == 0) {
        true => "none".to_owned(),
        false => hex::encode(bytes),
    };
    let mut fields = vec![("TDX MRTD".to_owned(), hex::encode(reference.mrtd))];
    let mut add = |name: &str, value: String| fields.push((format!("TDX {name}"), value));
    if reference.endorses != Endorses::None {
        add("endorses", reference.endorses.to_string());
    }
    if let Some(module) = reference.mr_seam {
        add("MRSEAM", hex::encode(module));
    }
    add("MRCONFIGID", or_none(&reference.mr_config_id));
    add("MROWNER", or_none(&reference.mr_owner));
    add("MROWNERCONFIG", or_none(&reference.mr_owner_config));
    add("attributes", format!("{:#x}", reference.attributes));
    add("XFAM", format!("{:#x}", reference.xfam));
    add(
        "TEE_TCB_SVN",
        format!("at least {}", hex::encode(reference.least_tee_tcb_svn)),
    );
    for (rtmr, value) in &reference.rtmrs.registers {
        let events = reference.rtmrs.events_of(*rtmr).count();
        let words = match events {
            0 => hex::encode(value),
            count => format!("{} ({count} events)", hex::encode(value)),
        };
        add(&format!("RTMR{rtmr}"), words);
    }
    fields
}
