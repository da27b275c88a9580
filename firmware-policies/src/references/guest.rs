//! What a reference states of a confidential VM and of GPUs, field by field in words.

use touchstone_verifier::corim::MachineReference;
use touchstone_verifier::snp::{GuestPolicyBits, SnpReference};

/// Every field that is stated, in order, with its value.
pub(super) fn words(values: &MachineReference) -> Vec<(String, String)> {
    let mut fields = values.snp.as_ref().map(snp).unwrap_or_default();
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
