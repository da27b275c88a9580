//! TDX guests through a `configfs-tsm` folder: genuine quotes, and what is not over the data that were asked for.
#![cfg(feature = "tpm")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::fs;

use touchstone_attest::agent::attester::AttesterError;
use touchstone_attest::agent::config::TeeConfig;
use touchstone_attest::agent::cvm::Cvm;
use touchstone_attest::tee::{Provider, Report, TeeError, identity};
use touchstone_evidence::label::Label;
use touchstone_simulated_platform::{EmulatedTsm, Guest, Line};
use touchstone_verifier::inventory::{CvmIdentity, Platform};
use touchstone_verifier::tdx;

#[test]
fn a_genuine_quote_says_which_platform_it_is_of() {
    let Some(folder) = touchstone_vectors::genuine("tdx") else {
        return;
    };
    for name in ["tdx_v4_gce_cos113.bin", "tdx_v5_90c06f_uptodate.bin"] {
        let quote = fs::read(folder.join(name)).unwrap();
        let report = Report {
            provider: Provider::Tdx,
            report: quote.clone(),
            auxiliary: Vec::new(),
        };
        let claimed = identity::of_tdx(&report, None).unwrap();
        let parsed = tdx::Quote::parse(&quote).unwrap();
        let expected = Platform::TdxPlatform(tdx::Platform::claimed_by(&parsed, None).unwrap().ppid);
        assert_eq!(
            claimed.platform.parse::<CvmIdentity>().unwrap().platform,
            expected,
            "{name}"
        );
        for cut in [0, 1, 47, 600, quote.len() / 2] {
            let report = Report {
                report: quote[..cut].to_vec(),
                ..report.clone()
            };
            assert!(
                matches!(identity::of_tdx(&report, None), Err(TeeError::Malformed { .. })),
                "{name}, cut at {cut}"
            );
        }
    }
}

#[test]
fn a_quote_over_other_data_is_not_passed_on() {
    let Some(file) = touchstone_vectors::genuine("tdx/tdx_v4_gce_cos113.bin") else {
        return;
    };
    let quote = fs::read(file).unwrap();
    let folder = tempfile::tempdir().unwrap();
    // The simulated platform has no quotes of its own: it gives this one whatever is asked for.
    let mut guest = Guest::new(Line::Milan, 0xC1).unwrap();
    (guest.provider, guest.gives_certificates, guest.replay) = ("tdx_guest", false, Some(quote.clone()));
    let tsm = EmulatedTsm::start(&folder.path().join("tsm"), guest).unwrap();
    // What a report is of is learned from any quote; evidence is made of one over the data alone.
    let mut cvm = Cvm::open(&TeeConfig::configfs(tsm.path()), "").unwrap();
    assert_eq!(cvm.kind(), "tdx");
    let own: [u8; 64] = *tdx::Quote::parse(&quote).unwrap().report_data();
    assert_eq!(cvm.report(&own).unwrap(), (Label::TdxQuote, quote));
    let refused = cvm.report(&[9; 64]).unwrap_err();
    assert!(
        matches!(&refused, AttesterError::Tee(TeeError::Malformed { expected, .. }) if expected.contains("asked for")),
        "{refused}"
    );
}
