//! What follows from an event, by its type. Pure.
//!
//! Source: OpenID Continuous Access Evaluation Profile 1.0, section 3; OpenID Shared Signals Framework 1.0, section 8.1.4
//! (verification). A detector only ever takes away: that a device is compliant again, or a risk low, lifts nothing.

use serde_json::{Map, Value};
use touchstone_policies::DetectorReach;

/// Where the types of CAEP are.
const CAEP: &str = "https://schemas.openid.net/secevent/caep/event-type/";
/// The event by which a transmitter tries whether it is heard.
const VERIFICATION: &str = "https://schemas.openid.net/secevent/ssf/event-type/verification";

/// What follows from an event; the stricter is the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// It is recorded, and nothing more.
    Nothing,
    /// The subject's rights are suspended.
    Quarantine,
    /// They are withdrawn.
    Revoke,
}

impl Effect {
    /// Its name in statements.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Quarantine => "quarantine",
            Self::Revoke => "revoke",
        }
    }

    /// No more than policy lets this detector do.
    #[must_use]
    pub fn capped(self, reach: DetectorReach) -> Self {
        self.min(match reach {
            DetectorReach::Quarantine => Self::Quarantine,
            DetectorReach::Revoke => Self::Revoke,
        })
    }
}

/// What an event of this type and payload asks for. An event that nobody here knows is refused, so that who sent it does
/// not believe that something came of it.
///
/// # Errors
/// What does not conform to the type's definition.
pub fn effect(uri: &str, payload: &Map<String, Value>) -> Result<Effect, String> {
    let member = |name: &str, known: &[&str]| {
        let found = payload.get(name).and_then(Value::as_str);
        match found {
            Some(found) if known.contains(&found) => Ok(found.to_owned()),
            _ => Err(format!("{name}: expected one of {}, found {found:?}", known.join(", "))),
        }
    };
    if uri == VERIFICATION {
        return Ok(Effect::Nothing);
    }
    let Some(kind) = uri.strip_prefix(CAEP) else {
        return Err("no type of event that is known here".into());
    };
    Ok(match kind {
        "session-revoked" => Effect::Revoke,
        "credential-change" => match member("change_type", &["create", "revoke", "update", "delete"])?.as_str() {
            "revoke" | "delete" => Effect::Revoke,
            _ => Effect::Nothing,
        },
        "device-compliance-change" => {
            const KNOWN: [&str; 2] = ["compliant", "not-compliant"];
            member("previous_status", &KNOWN)?;
            match member("current_status", &KNOWN)?.as_str() {
                "not-compliant" => Effect::Quarantine,
                _ => Effect::Nothing,
            }
        }
        "risk-level-change" => {
            let whose = payload.get("principal").and_then(Value::as_str);
            let whose = whose.ok_or("principal: expected whose risk it is")?;
            let level = member("current_level", &["LOW", "MEDIUM", "HIGH"])?;
            match (whose, level.as_str()) {
                // Those are no machines and nothing that runs on one; whatever else has a risk here is.
                ("USER" | "TENANT" | "ORG_UNIT" | "GROUP", _) | (_, "LOW" | "MEDIUM") => Effect::Nothing,
                _ => Effect::Quarantine,
            }
        }
        "token-claims-change" | "assurance-level-change" | "session-established" | "session-presented" => {
            Effect::Nothing
        }
        _ => return Err("no type of event that is known here".into()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_each_type_asks_for() {
        let of = |kind: &str, payload: Value| effect(&format!("{CAEP}{kind}"), payload.as_object().unwrap());
        let compliance = |from: &str, to: &str| json!({"previous_status": from, "current_status": to});
        let risk = |whose: &str, level: &str| json!({"principal": whose, "current_level": level});
        for (kind, payload, expected) in [
            ("session-revoked", json!({}), Some(Effect::Revoke)),
            (
                "credential-change",
                json!({"change_type": "revoke"}),
                Some(Effect::Revoke),
            ),
            (
                "credential-change",
                json!({"change_type": "create"}),
                Some(Effect::Nothing),
            ),
            ("credential-change", json!({}), None),
            (
                "device-compliance-change",
                compliance("compliant", "not-compliant"),
                Some(Effect::Quarantine),
            ),
            (
                "device-compliance-change",
                compliance("not-compliant", "compliant"),
                Some(Effect::Nothing),
            ),
            (
                "device-compliance-change",
                json!({"current_status": "not-compliant"}),
                None,
            ),
            ("device-compliance-change", compliance("compliant", "broken"), None),
            ("risk-level-change", risk("DEVICE", "HIGH"), Some(Effect::Quarantine)),
            ("risk-level-change", risk("DEVICE", "LOW"), Some(Effect::Nothing)),
            ("risk-level-change", risk("USER", "HIGH"), Some(Effect::Nothing)),
            ("risk-level-change", risk("WORKLOAD", "HIGH"), Some(Effect::Quarantine)),
            ("risk-level-change", json!({"current_level": "HIGH"}), None),
            ("risk-level-change", risk("DEVICE", "high"), None),
            ("session-presented", json!({}), Some(Effect::Nothing)),
            ("unheard-of", json!({}), None),
            ("", json!({}), None),
        ] {
            assert_eq!(of(kind, payload.clone()).ok(), expected, "{kind} {payload}");
        }
        assert_eq!(effect(VERIFICATION, &Map::new()), Ok(Effect::Nothing));
        for uri in [
            "session-revoked",
            "https://example.com/session-revoked",
            "HTTPS://schemas.openid.net/secevent/caep/event-type/session-revoked",
        ] {
            assert!(effect(uri, &Map::new()).is_err(), "{uri}");
        }
    }

    #[test]
    fn policy_caps_what_is_asked_for() {
        use DetectorReach as R;
        for (asked, reach, expected) in [
            (Effect::Revoke, R::Quarantine, Effect::Quarantine),
            (Effect::Revoke, R::Revoke, Effect::Revoke),
            (Effect::Quarantine, R::Revoke, Effect::Quarantine),
            (Effect::Nothing, R::Revoke, Effect::Nothing),
        ] {
            assert_eq!(asked.capped(reach), expected);
        }
    }
}
