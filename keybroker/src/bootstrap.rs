//! When a node may have the key of its disk: in its initramfs, once a boot, and only its own (`docs/protocol.md`, section
//! 11). Part of every decision about the action `bootstrap`, whatever Cedar policies permit.

use touchstone_verifier::appraisal::{ClaimValue, Claims, claim};
use touchstone_verifier::bootstrap::{INITRD_PHASE, Stage};
use touchstone_verifier::ear::EarReason;
use touchstone_verifier::inventory::Node;

/// The action of a scope that grants it.
pub const ACTION: &str = "bootstrap";
/// The action by which every other key leaves.
const RELEASE: &str = "release";
/// What the names of disk keys begin with; the node's name follows. So no list of who gets which key can be wrong.
pub const KEY_PREFIX: &str = "disk/";

touchstone_cose::reason_codes! {
    /// Why a node does not get the key of its disk.
    pub enum BootstrapCode {
        VolumeUnlisted = "bootstrap-volume-unlisted": "The inventory names no encrypted disk for this node. Say which: touchstone policy node volume REPO NODE --luks-uuid UUID --volume-pcr15 HEX, then publish.",
        NotQuoted = "bootstrap-register-not-quoted": "Registers 11 and 15 were not quoted, so nobody knows whether the machine is in its initramfs. Attest again: they are asked for since the policy grants bootstrap.",
        Done = "bootstrap-done": "The disk was opened in this boot already, or opening it was given up. Reboot to open it again; a running system has no use for the key.",
        PhaseOver = "bootstrap-phase-over": "The machine is no longer, or not yet, in its initramfs. Disk keys leave only there: reboot, and let the initramfs ask. With a unified kernel image the initramfs must measure enter-initrd.",
        KeyFetched = "bootstrap-key-fetched": "The key of the disk has been fetched since the node attested last. Attest again: if the disk is still closed, it is released again.",
        KeyOther = "bootstrap-key-of-another-node": "A node gets the key of its own disk only, which is called disk/ and the node's name. Ask for that one.",
    }
}

/// Why `node`, with these claims of an appraisal that just came, may not bootstrap; nothing where it may.
#[must_use]
pub fn refusal(node: &Node, claims: &Claims) -> Option<EarReason> {
    if node.volume.is_none() {
        let expected = "a volume in the inventory";
        return Some(reason(BootstrapCode::VolumeUnlisted, &node.name, expected, "none"));
    }
    let stage = match claims.get(claim::BOOTSTRAP) {
        Some(ClaimValue::Text(stage)) => stage.as_str(),
        _ => {
            let expected = "registers 11 and 15 in each bank";
            return Some(reason(BootstrapCode::NotQuoted, "quote", expected, "not all of them"));
        }
    };
    let phase = match claims.get(claim::BOOT_PHASE) {
        Some(ClaimValue::Text(phase)) => phase.as_str(),
        _ => "none",
    };
    if stage == Stage::Open.as_str() {
        None
    } else if stage == Stage::Done.as_str() {
        let expected = "register 15 as it was at the start";
        Some(reason(
            BootstrapCode::Done,
            "PCR 15",
            expected,
            "the mark of a finished bootstrap",
        ))
    } else if stage == Stage::PhaseOver.as_str() {
        let expected = format!("the phase {INITRD_PHASE}");
        Some(reason(BootstrapCode::PhaseOver, "PCR 11", &expected, phase))
    } else {
        let expected = "register 15 as it was at the start";
        Some(reason(BootstrapCode::PhaseOver, "PCR 15", expected, stage))
    }
}

/// The action by which the key called `key` leaves: `bootstrap` for disk keys, `release` for all others.
#[must_use]
pub fn action_of(key: &str) -> &'static str {
    if key.starts_with(KEY_PREFIX) { ACTION } else { RELEASE }
}

/// Why `node`, with these claims of what it showed last, may not have the key called `key`; nothing where it may, and for
/// keys that are not of a disk. `given`: it got its key since it showed that.
#[must_use]
pub fn key_refusals(node: &Node, claims: &Claims, key: &str, given: bool) -> Vec<EarReason> {
    if action_of(key) != ACTION {
        return Vec::new();
    }
    let own = format!("{KEY_PREFIX}{}", node.name);
    let other = (key != own).then(|| reason(BootstrapCode::KeyOther, "key", &own, key));
    let again = given.then(|| {
        reason(
            BootstrapCode::KeyFetched,
            "key",
            "an attestation after the last release",
            "none",
        )
    });
    refusal(node, claims).into_iter().chain(again).chain(other).collect()
}

fn reason(code: BootstrapCode, claim: &str, expected: &str, found: &str) -> EarReason {
    EarReason {
        code: code.as_str().into(),
        claim: format!("{ACTION}: {claim}"),
        expected: expected.into(),
        found: found.into(),
    }
}

#[cfg(test)]
mod tests {
    use touchstone_verifier::bootstrap::Volume;

    use super::*;

    fn node(volume: bool) -> Node {
        Node {
            name: "web-1".into(),
            region: "eu-1".into(),
            volume: volume.then(|| Volume {
                luks_uuid: "4878cbe9-f3c5-4d20-82da-b2bb10ae2940".into(),
                register: vec![1; 32],
            }),
            ..Node::default()
        }
    }

    fn claims(stage: Option<&str>, phase: Option<&str>) -> Claims {
        let text = |name: &str, value: Option<&str>| value.map(|v| (name.to_owned(), ClaimValue::Text(v.to_owned())));
        let all = [text(claim::BOOTSTRAP, stage), text(claim::BOOT_PHASE, phase)];
        all.into_iter().flatten().collect()
    }

    #[test]
    fn only_an_initramfs_with_a_closed_disk_gets_the_key() {
        use BootstrapCode::*;
        type Row = (
            &'static str,
            bool,
            Option<&'static str>,
            Option<&'static str>,
            Option<BootstrapCode>,
        );
        let rows: &[Row] = &[
            ("initramfs", true, Some("open"), None, None),
            (
                "initramfs of a unified kernel image",
                true,
                Some("open"),
                Some("enter-initrd"),
                None,
            ),
            (
                "no volume in the inventory",
                false,
                Some("open"),
                None,
                Some(VolumeUnlisted),
            ),
            ("register 15 was not quoted", true, None, None, Some(NotQuoted)),
            (
                "not quoted, whatever the phase",
                true,
                None,
                Some("enter-initrd"),
                Some(NotQuoted),
            ),
            ("the mark is set", true, Some("done"), None, Some(Done)),
            (
                "the volume was measured",
                true,
                Some("volume-measured"),
                None,
                Some(PhaseOver),
            ),
            (
                "the initramfs was left",
                true,
                Some("phase-over"),
                Some("leave-initrd"),
                Some(PhaseOver),
            ),
            (
                "something else was measured",
                true,
                Some("register-moved"),
                None,
                Some(PhaseOver),
            ),
            (
                "a word of a later verifier",
                true,
                Some("opened"),
                None,
                Some(PhaseOver),
            ),
            ("no word", true, Some(""), None, Some(PhaseOver)),
        ];
        for (name, volume, stage, phase, code) in rows {
            let found = refusal(&node(*volume), &claims(*stage, *phase)).map(|reason| reason.code);
            assert_eq!(found.as_deref(), code.map(BootstrapCode::as_str), "{name}");
        }
        let mut number = claims(None, None);
        number.insert(claim::BOOTSTRAP.into(), ClaimValue::Bool(true));
        assert!(refusal(&node(true), &number).is_some(), "a claim of another type");
    }

    #[test]
    fn a_node_gets_the_key_of_its_own_disk_only() {
        use BootstrapCode::*;
        let own = node(true);
        let rows: &[(&str, &str, &[BootstrapCode])] = &[
            ("disk/web-1", "open", &[]),
            ("disk/web-1", "done", &[Done]),
            ("disk/web-2", "open", &[KeyOther]),
            ("disk/web-2", "done", &[Done, KeyOther]),
            ("disk/web-10", "open", &[KeyOther]),
            ("disk/web", "open", &[KeyOther]),
            ("disk/", "open", &[KeyOther]),
            // What workloads may have is for others to say.
            ("db/main", "done", &[]),
            ("disks", "done", &[]),
        ];
        for (key, stage, codes) in rows {
            let found = key_refusals(&own, &claims(Some(stage), None), key, false);
            let found: Vec<&str> = found.iter().map(|reason| reason.code.as_str()).collect();
            let expected: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
            assert_eq!(found, expected, "{key} {stage}");
        }
        let again = key_refusals(&own, &claims(Some("open"), None), "disk/web-1", true);
        let again: Vec<&str> = again.iter().map(|reason| reason.code.as_str()).collect();
        assert_eq!(again, ["bootstrap-key-fetched"], "once for each attestation");
        assert!(key_refusals(&own, &claims(Some("open"), None), "db/main", true).is_empty());
        for (key, action) in [
            ("disk/web-1", "bootstrap"),
            ("disk/", "bootstrap"),
            ("disk", "release"),
            ("db/disk/a", "release"),
        ] {
            assert_eq!(action_of(key), action, "{key}");
        }
    }
}
