//! Genuine TDX quotes with genuine collateral, each with the outcome it is published with.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use std::path::Path;

use touchstone_vectors::genuine;
use touchstone_verifier::reason::Reason;
use touchstone_verifier::tdx::check::check_guest;
use touchstone_verifier::tdx::{
    BodyKind, Collateral, Evaluation, PckData, Platform, Quote, TcbStatus, TdxPolicy, TdxReference, VerifiedQuote,
    check, replay,
};
use touchstone_verifier::x509::{Certificate, CertificateStore};

/// 2026-11-21T00:00:00Z.
const NOW: i64 = 1_795_219_200;

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn store(vectors: &Path) -> CertificateStore {
    let root = read(&vectors.join("tdx/trusted_root/intel_sgx_root_ca.der"));
    CertificateStore::new([(Certificate::from_der(&root).unwrap(), true)])
}

fn codes(reasons: &[Reason]) -> Vec<&'static str> {
    let mut codes: Vec<&str> = reasons.iter().map(|reason| reason.code.as_str()).collect();
    codes.dedup();
    codes
}

/// Seconds of a date in the table.
fn seconds(text: &str) -> i64 {
    let days = |text: &str| {
        let part: Vec<i64> = text.split('-').map(|part| part.parse().unwrap()).collect();
        let (year, month) = if part[1] > 2 {
            (part[0], part[1] - 3)
        } else {
            (part[0] - 1, part[1] + 9)
        };
        year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + part[2] - 1 - 719_468
    };
    let (date, time) = text.trim_end_matches('Z').split_once('T').unwrap();
    let clock: Vec<i64> = time.split(':').map(|part| part.parse().unwrap()).collect();
    days(date) * 86_400 + clock[0] * 3600 + clock[1] * 60 + clock[2]
}

/// Every row of the published table: quote, collateral and time give the outcome.
#[test]
fn every_row_of_the_table_has_its_outcome() {
    let Some(tdx) = genuine("tdx") else { return };
    let vectors = tdx.parent().unwrap();
    let store = store(vectors);
    let table = String::from_utf8(read(&tdx.join("CASES.tsv"))).unwrap();
    let mut rows = 0;
    for row in table.lines().skip(1) {
        let field: Vec<&str> = row.split('\t').collect();
        let bytes = read(&vectors.join(field[0]));
        let quote = Quote::parse(&bytes).unwrap_or_else(|e| panic!("{}: {e}", field[0]));
        assert_eq!(quote.version().to_string(), field[3], "{row}");
        rows += 1;
        if field[1] == "-" {
            // Debugged, and no collateral: genuine, and refused.
            let verified = VerifiedQuote::verify(quote, None, &store, NOW).unwrap();
            assert_eq!(hex::encode(verified.platform().fmspc), "50806f000000");
            assert_eq!(codes(&check_guest(&quote).reasons), ["tdx-debug-enabled"]);
            continue;
        }
        let now = seconds(field[2]);
        let collateral = Collateral::parse(&read(&vectors.join(field[1]))).unwrap();
        let verified = VerifiedQuote::verify(quote, None, &store, now).unwrap();
        let outcome = Evaluation::evaluate(&verified, &collateral, &store, now);
        let expected = field[5];
        match outcome {
            Ok(evaluation) => {
                let status = format!("OK status=\"{}\"", evaluation.status);
                assert!(expected.starts_with(&status), "{row}: {evaluation:?}");
                let named: Vec<String> = evaluation.advisories.iter().map(|id| format!("{id:?}")).collect();
                assert!(
                    expected.ends_with(&format!("advisories=[{}]", named.join(", "))),
                    "{row}"
                );
                assert!(evaluation.expires >= now && evaluation.number >= 17, "{row}");
                let checked = check(&verified, &evaluation, quote.report_data(), &TdxPolicy::default());
                let wanted: &[&str] = if evaluation.status == TcbStatus::UpToDate {
                    &[]
                } else {
                    &["tdx-tcb-status"]
                };
                assert_eq!(codes(&checked.reasons), wanted, "{row}");
            }
            Err(reasons) => {
                let wanted = match expected {
                    "ERR No matching TCB level found" => "tdx-tcb-level-unknown",
                    _ => "tdx-collateral-expired",
                };
                assert_eq!(codes(&reasons), [wanted], "{row}: {reasons:?}");
            }
        }
    }
    assert_eq!(rows, 25);
}

#[test]
fn intels_answers_as_received_serve_as_well() {
    let Some(tdx) = genuine("tdx") else { return };
    let vectors = tdx.parent().unwrap();
    let given: serde_json::Value =
        serde_json::from_slice(&read(&tdx.join("collateral/90c06f000000_2026-03.json"))).unwrap();
    let mut received = given.clone();
    let object = received.as_object_mut().unwrap();
    let text = |name: &str| String::from_utf8(read(&tdx.join("pcs").join(name))).unwrap();
    object.insert("tcb_info".into(), text("tcb_info_90c06f000000.json").into());
    object.insert("qe_identity".into(), text("td_qe_identity.json").into());
    // A signature beside the answer would be a choice between two.
    assert!(Collateral::parse(received.to_string().as_bytes()).is_err());
    for member in ["tcb_info_signature", "qe_identity_signature"] {
        received.as_object_mut().unwrap().remove(member);
    }
    let collateral = Collateral::parse(received.to_string().as_bytes()).unwrap();
    let store = store(vectors);
    let bytes = read(&tdx.join("tdx_v5_90c06f_uptodate.bin"));
    let now = seconds("2026-03-31T22:20:07Z");
    let verified = VerifiedQuote::verify(Quote::parse(&bytes).unwrap(), None, &store, now).unwrap();
    let evaluation = Evaluation::evaluate(&verified, &collateral, &store, now).unwrap();
    assert_eq!((evaluation.status, evaluation.number), (TcbStatus::UpToDate, 18));
    // The signature is over the exact text: one byte more, and it is another.
    let mut altered = received.clone();
    let longer = altered["tcb_info"]
        .as_str()
        .unwrap()
        .replacen("\"version\":3", "\"version\": 3", 1);
    altered["tcb_info"] = longer.into();
    let collateral = Collateral::parse(altered.to_string().as_bytes()).unwrap();
    let reasons = Evaluation::evaluate(&verified, &collateral, &store, now).unwrap_err();
    assert_eq!(codes(&reasons), ["tdx-collateral-refused"]);
}

#[test]
fn a_root_that_the_policy_does_not_list_vouches_for_nothing() {
    let Some(tdx) = genuine("tdx") else { return };
    let bytes = read(&tdx.join("tdx_v5_90c06f_uptodate.bin"));
    let now = seconds("2026-03-31T22:20:07Z");
    let quote = Quote::parse(&bytes).unwrap();
    let reasons = VerifiedQuote::verify(quote, None, &CertificateStore::default(), now).unwrap_err();
    assert_eq!(codes(&reasons), ["certificate-issuer-unknown"]);
    // Listed when the quote was verified, and not when the collateral is: refused all the same.
    let with = store(tdx.parent().unwrap());
    let verified = VerifiedQuote::verify(quote, None, &with, now).unwrap();
    let collateral = Collateral::parse(&read(&tdx.join("collateral/90c06f000000_2026-03.json"))).unwrap();
    let reasons = Evaluation::evaluate(&verified, &collateral, &CertificateStore::default(), now).unwrap_err();
    assert_eq!(codes(&reasons), ["tdx-collateral-refused"]);
}

#[test]
fn collateral_of_another_platform_is_named_as_such() {
    let Some(tdx) = genuine("tdx") else { return };
    let store = store(tdx.parent().unwrap());
    let bytes = read(&tdx.join("tdx_v4_gce_00806f05_uptodate.bin"));
    let now = seconds("2026-03-31T22:20:07Z");
    let verified = VerifiedQuote::verify(Quote::parse(&bytes).unwrap(), None, &store, now).unwrap();
    let collateral = Collateral::parse(&read(&tdx.join("collateral/90c06f000000_2026-03.json"))).unwrap();
    let reasons = Evaluation::evaluate(&verified, &collateral, &store, now).unwrap_err();
    assert_eq!(codes(&reasons), ["tdx-collateral-other-platform"]);
    // Before it was issued.
    let early = Evaluation::evaluate(&verified, &collateral, &store, seconds("2025-01-01T00:00:00Z")).unwrap_err();
    assert!(codes(&early).contains(&"tdx-collateral-not-yet-valid"), "{early:?}");
}

/// What each genuine quote says, read by another reader too (the publisher's manifest).
#[test]
fn fields_are_where_the_manifest_has_them() {
    let Some(tdx) = genuine("tdx") else { return };
    for (name, kind, padding, mrtd, rtmr1, tcb) in [
        (
            "tdx_v4_50806f_debug",
            BodyKind::Td10,
            0,
            "705ee9381b86",
            "559cfcf42716",
            "030005",
        ),
        (
            "tdx_v4_b0c06f_uptodate",
            BodyKind::Td10,
            70,
            "91eb2b44d141",
            "0084452c0166",
            "060103",
        ),
        (
            "tdx_v4_gce_cos113",
            BodyKind::Td10,
            3065,
            "dae67181d3d6",
            "f62dbc072bd5",
            "040107",
        ),
        (
            "tdx_v5_90c06f_uptodate",
            BodyKind::Td15,
            0,
            "7348651a34b2",
            "463acaace1b6",
            "0b0104",
        ),
        (
            "tdx_v5_td15ex_b0c06f",
            BodyKind::Td15Ex,
            0,
            "2a674327c502",
            "3484cd07ba09",
            "0f0104",
        ),
    ] {
        let bytes = read(&tdx.join(format!("{name}.bin")));
        let quote = Quote::parse(&bytes).unwrap();
        assert_eq!(quote.kind(), kind, "{name}");
        assert!(hex::encode(quote.mrtd()).starts_with(mrtd), "{name}");
        assert!(hex::encode(quote.rtmr(1).unwrap()).starts_with(rtmr1), "{name}");
        assert!(hex::encode(quote.tee_tcb_svn()).starts_with(tcb), "{name}");
        // Truncated anywhere it is no quote, without its padding it still is.
        let whole = bytes.len() - padding;
        assert!(Quote::parse(&bytes[..whole]).is_ok(), "{name}");
        for len in 0..whole {
            assert!(Quote::parse(&bytes[..len]).is_err(), "{name} cut at {len}");
        }
        let mut longer = bytes[..whole].to_vec();
        longer.push(1);
        assert!(Quote::parse(&longer).is_err(), "{name} with something behind it");
    }
}

/// The firmware's log of the very machine leads to the quoted registers; another machine's does not.
#[test]
fn the_ccel_leads_to_the_quoted_registers() {
    let (Some(tdx), Some(ccel)) = (genuine("tdx"), genuine("ccel")) else {
        return;
    };
    let bytes = read(&tdx.join("tdx_v4_gce_cos113.bin"));
    let quote = Quote::parse(&bytes).unwrap();
    assert_eq!(read(&ccel.join("gce_cos113.nonce.bin")), quote.report_data());
    let log = read(&ccel.join("gce_cos113.ccel.bin"));
    let replayed = replay(&quote, &log).unwrap();
    assert_eq!(replayed.registers, [0, 1, 2]);
    assert!(replayed.events_of(0).unwrap().count() > 5 && replayed.events_of(3).is_none());
    let reference = TdxReference::of(&quote, Some(&replayed));
    assert!(reference.rtmrs.events.len() > 20, "{}", reference.rtmrs.events.len());
    assert_eq!(reference.differences("golden", &quote, 0..4, Some(&replayed)), []);
    assert_eq!(reference.differences("golden", &quote, 0..4, None), []);
    let other = read(&ccel.join("ovmf.ccel.bin"));
    let reasons = replay(&quote, &other).unwrap_err();
    assert_eq!(codes(&reasons), ["log-does-not-replay"]);
    assert!(reasons.iter().any(|reason| reason.claim == "RTMR0"), "{reasons:?}");
    // A quote of another machine against this one's reference: every part that differs is told.
    let foreign = read(&tdx.join("tdx_v4_gce_00806f05_uptodate.bin"));
    let foreign = Quote::parse(&foreign).unwrap();
    let differences = reference.differences("golden", &foreign, 0..4, None);
    let claims: Vec<&str> = differences.iter().map(|reason| reason.claim.as_str()).collect();
    assert_eq!(claims, ["MRTD", "RTMR0", "RTMR1", "RTMR2"]);
}

/// The quote with its inner certification data replaced: they are outside both signatures.
fn certified_by(quote: &[u8], body: usize, kind: u16, data: &[u8]) -> Vec<u8> {
    let sizes = body + 4 + 64 + 64 + 2;
    let inner = sizes + 4 + 384 + 64 + 2 + 32;
    let mut replaced = quote[..inner].to_vec();
    replaced.extend(kind.to_le_bytes());
    replaced.extend((data.len() as u32).to_le_bytes());
    replaced.extend(data);
    let certification = (replaced.len() - sizes - 4) as u32;
    let authentication = (replaced.len() - body - 4) as u32;
    replaced[sizes..sizes + 4].copy_from_slice(&certification.to_le_bytes());
    replaced[body..body + 4].copy_from_slice(&authentication.to_le_bytes());
    replaced
}

/// Platforms that do not keep their certificate quote their id instead; Intel's cache has the certificate, and it comes
/// with the collateral. The verdict is the same, whoever brings it.
#[test]
fn a_platforms_certificate_may_come_with_the_collateral() {
    let Some(tdx) = genuine("tdx") else { return };
    let store = store(tdx.parent().unwrap());
    let chain_of = |bytes: &[u8]| match Quote::parse(bytes).unwrap().pck() {
        PckData::Chain(chain) => String::from_utf8(chain.to_vec())
            .unwrap()
            .trim_end_matches('\0')
            .to_owned(),
        other => panic!("{other:?}"),
    };
    for (name, body, collateral, now) in [
        (
            "tdx_v4_b0c06f_uptodate",
            48 + 584,
            "b0c06f000000_2025-06",
            "2025-07-01T00:00:00Z",
        ),
        (
            "tdx_v5_90c06f_uptodate",
            54 + 648,
            "90c06f000000_2026-03",
            "2026-03-31T22:20:07Z",
        ),
    ] {
        let now = seconds(now);
        let original = read(&tdx.join(format!("{name}.bin")));
        let chain = chain_of(&original);
        let plain: serde_json::Value =
            serde_json::from_slice(&read(&tdx.join(format!("collateral/{collateral}.json")))).unwrap();
        let with = |chain: &str| {
            let mut file = plain.clone();
            file["pck_certificate_chain"] = chain.into();
            Collateral::parse(file.to_string().as_bytes()).unwrap()
        };
        let judge = |bytes: &[u8], collateral: &Collateral| -> Result<(Platform, Evaluation), Vec<Reason>> {
            let verified = VerifiedQuote::verify(Quote::parse(bytes).unwrap(), Some(collateral), &store, now)?;
            let own = VerifiedQuote::by_own_root(Quote::parse(bytes).unwrap(), Some(collateral));
            assert_eq!(own.is_ok(), chain.matches("BEGIN").count() == 3, "{name}");
            Ok((
                verified.platform().clone(),
                Evaluation::evaluate(&verified, collateral, &store, now)?,
            ))
        };
        let bare = Collateral::parse(plain.to_string().as_bytes()).unwrap();
        let wanted = judge(&original, &bare).unwrap();
        assert_eq!(wanted.1.status, TcbStatus::UpToDate);
        let leaf = format!("{}-----END CERTIFICATE-----\n", chain.split("-----END").next().unwrap());
        let der = pem::parse(&leaf).unwrap().into_contents();
        for (kind, data) in [(1, vec![7; 36]), (2, vec![7; 276]), (3, vec![7; 404])] {
            let quote = certified_by(&original, body, kind, &data);
            assert_eq!(judge(&quote, &with(&chain)), Ok(wanted.clone()), "{name}, type {kind}");
            let reasons = judge(&quote, &bare).unwrap_err();
            assert_eq!(codes(&reasons), ["tdx-pck-missing"], "{name}, type {kind}");
            let reasons = VerifiedQuote::verify(Quote::parse(&quote).unwrap(), None, &store, now).unwrap_err();
            assert_eq!(codes(&reasons), ["tdx-pck-missing"], "{name}, type {kind}");
            // Of another platform, which Intel certified as well.
            let other = chain_of(&read(&tdx.join("tdx_v4_gce_00806f05_uptodate.bin")));
            let reasons = judge(&quote, &with(&other)).unwrap_err();
            assert_eq!(codes(&reasons), ["tdx-signature-invalid"], "{name}, type {kind}");
            // An id of another length is of another kind, or none.
            for len in [0, data.len() - 1, data.len() + 1] {
                assert!(Quote::parse(&certified_by(&original, body, kind, &vec![7; len])).is_err());
            }
        }
        for data in [leaf.as_bytes(), &der] {
            let quote = certified_by(&original, body, 4, data);
            // The authority that revokes it is the one that issued it; a chain beside it serves as well.
            assert_eq!(judge(&quote, &bare), Ok(wanted.clone()), "{name}, leaf");
            assert_eq!(
                judge(&quote, &with(&chain)),
                Ok(wanted.clone()),
                "{name}, leaf and chain"
            );
            let reasons = VerifiedQuote::verify(Quote::parse(&quote).unwrap(), None, &store, now).unwrap_err();
            assert_eq!(codes(&reasons), ["certificate-issuer-unknown"], "{name}, leaf alone");
        }
        // The chain of the quote itself counts, whatever else comes.
        assert_eq!(judge(&original, &with("nothing")), Ok(wanted.clone()), "{name}");
        for kind in [0, 6, 7] {
            assert!(
                Quote::parse(&certified_by(&original, body, kind, &[7; 404])).is_err(),
                "type {kind}"
            );
        }
    }
}

/// Collateral put together of Intel's answers as they came over the wire.
#[test]
fn intels_answers_are_taken_as_the_json_they_are() {
    let Some(tdx) = genuine("tdx") else { return };
    let store = store(tdx.parent().unwrap());
    let file = |name: &str| read(&tdx.join("pcs").join(name));
    let text = |name: &str| String::from_utf8(file(name)).unwrap();
    let json = |text: String| serde_json::Value::from(text).to_string();
    let crl_issuer = {
        let given = read(&tdx.join("collateral/90c06f000000_2026-03.json"));
        let given: serde_json::Value = serde_json::from_slice(&given).unwrap();
        given["pck_crl_issuer_chain"].as_str().unwrap().to_owned()
    };
    let compose = |tcb_info: &str, qe_identity: &str| {
        format!(
            "{{\"tcb_info\": {tcb_info},\n \"qe_identity\": {qe_identity}, \"root_ca_crl\": \"{}\", \"pck_crl\": \"{}\", \
             \"pck_crl_issuer_chain\": {}, \"tcb_info_issuer_chain\": {}, \"qe_identity_issuer_chain\": {}}}",
            hex::encode(file("root_ca_crl.der")),
            hex::encode(file("pck_crl_platform.der")),
            json(crl_issuer.clone()),
            json(text("tcb_signing_chain.pem")),
            json(text("qe_identity_signing_chain.pem")),
        )
    };
    let (tcb_info, qe_identity) = (text("tcb_info_90c06f000000.json"), text("td_qe_identity.json"));
    let bytes = read(&tdx.join("tdx_v5_90c06f_uptodate.bin"));
    let evaluate = |collateral: &str, now: i64| {
        let verified = VerifiedQuote::verify(Quote::parse(&bytes).unwrap(), None, &store, now).unwrap();
        Evaluation::evaluate(
            &verified,
            &Collateral::parse(collateral.as_bytes()).unwrap(),
            &store,
            now,
        )
    };
    let then = seconds("2026-03-31T22:20:07Z");
    let composed = compose(&tcb_info, &qe_identity);
    let evaluation = evaluate(&composed, then).unwrap();
    assert_eq!((evaluation.status, evaluation.number), (TcbStatus::UpToDate, 18));
    // In force to the second, and no longer.
    let ends = Collateral::parse(composed.as_bytes()).unwrap().next_update();
    assert!(evaluate(&composed, ends).is_ok());
    assert_eq!(
        codes(&evaluate(&composed, ends + 1).unwrap_err()),
        ["tdx-collateral-expired"]
    );
    assert_eq!(
        codes(&evaluate(&composed, NOW).unwrap_err()),
        ["tdx-collateral-expired"]
    );
    // A file that was laid out anew: the signature is over the text without whitespace.
    let value: serde_json::Value = serde_json::from_str(&composed).unwrap();
    let pretty = serde_json::to_string_pretty(&value).unwrap();
    assert_eq!(evaluate(&pretty, then), Ok(evaluation));
    // One value altered, or two answers exchanged.
    let altered = tcb_info.replacen("\"svn\":", "\"svn\":1", 1);
    assert_ne!(altered, tcb_info);
    assert_eq!(
        codes(&evaluate(&compose(&altered, &qe_identity), then).unwrap_err()),
        ["tdx-collateral-refused"]
    );
    let inner = tcb_info.trim_end().trim_end_matches('}');
    for (row, tcb_info) in [
        ("no answer", "7".to_owned()),
        ("a list", format!("[{tcb_info}]")),
        ("the other answer", qe_identity.clone()),
        ("a third member", format!("{inner},\"more\":1}}")),
        ("a second signature", format!("{inner},\"signature\":\"00\"}}")),
    ] {
        assert!(
            Collateral::parse(compose(&tcb_info, &qe_identity).as_bytes()).is_err(),
            "{row}"
        );
    }
    let beside = composed.replacen("\"root_ca_crl\"", "\"tcb_info_signature\": \"00\", \"root_ca_crl\"", 1);
    assert!(
        Collateral::parse(beside.as_bytes()).is_err(),
        "a signature beside the answer"
    );
    let twice = composed.replacen(
        "\"root_ca_crl\"",
        &format!("\"tcb_info\": {tcb_info}, \"root_ca_crl\""),
        1,
    );
    assert!(Collateral::parse(twice.as_bytes()).is_err(), "one answer twice");
}
