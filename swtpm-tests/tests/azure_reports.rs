//! Reports in NV indices of a TPM, as Azure's paravisor keeps them: a software TPM and a genuine report.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests: what is not as it must be fails"
)]

use swtpm_tests::boots::Boot;
use swtpm_tests::swtpm::Swtpm;
use touchstone_attest::tee::azure::{Azure, DATA_INDEX, REPORT_INDEX};
use touchstone_attest::tee::{Provider, ReportSource as _, TeeError};
use touchstone_attest::tpm::Tpm;

#[test]
fn nv_indices_are_made_written_again_and_read() {
    let swtpm = Swtpm::from_boot(&Boot::GOOD, &Boot::GOOD).unwrap();
    let mut tpm = Tpm::open(&swtpm.tcti()).unwrap();
    assert_eq!(tpm.nv_contents(DATA_INDEX), Ok(None));
    for data in [[1; 64], [2; 64]] {
        tpm.nv_store(DATA_INDEX, &data).unwrap();
        assert_eq!(tpm.nv_contents(DATA_INDEX), Ok(Some(data.to_vec())));
    }
    assert!(tpm.nv_store(DATA_INDEX, &[3; 65]).is_err(), "it does not grow");
    assert_eq!(tpm.loaded_handles(), Ok(vec![]), "nothing is left in the TPM");
}

#[test]
fn a_report_of_the_boot_is_given_and_the_data_are_there_for_the_paravisor() {
    let Some(file) = touchstone_vectors::genuine("azure/hcl-report-snp.bin") else {
        return;
    };
    let report = std::fs::read(file).unwrap();
    let swtpm = Swtpm::from_boot(&Boot::GOOD, &Boot::GOOD).unwrap();
    let missing = Azure::open(&swtpm.tcti()).unwrap_err();
    assert!(
        matches!(&missing, TeeError::Tpm { detail } if detail.contains("0x01400001")),
        "{missing}"
    );

    let mut tpm = Tpm::open(&swtpm.tcti()).unwrap();
    tpm.nv_store(REPORT_INDEX, &report).unwrap();
    drop(tpm);
    let mut source = Azure::open(&swtpm.tcti()).unwrap();
    for data in [[7; 64], [8; 64]] {
        let given = source.report(&data).unwrap();
        assert_eq!((given.provider, &given.report), (Provider::Azure, &report));
    }
    let mut tpm = Tpm::open(&swtpm.tcti()).unwrap();
    let kept = tpm.nv_contents(DATA_INDEX).unwrap();
    assert_eq!(
        kept,
        Some(vec![7; 64]),
        "a paravisor that takes none is not asked again"
    );
}
