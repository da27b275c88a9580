//! Reports through a `configfs-tsm` folder, served in user space by a simulated platform.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::fs;

use touchstone_attest::tee::configfs::ConfigFs;
use touchstone_attest::tee::{Provider, ReportSource as _, TeeError, certificates};
use touchstone_simulated_platform::{EmulatedTsm, Guest, Line, field};

fn tsm(line: Line) -> (tempfile::TempDir, EmulatedTsm) {
    let folder = tempfile::tempdir().unwrap();
    let guest = Guest::new(line, 0xC1).unwrap();
    let tsm = EmulatedTsm::start(&folder.path().join("report"), guest).unwrap();
    (folder, tsm)
}

#[test]
fn a_report_comes_over_the_data_it_was_asked_for_with_its_certificates() {
    for line in [Line::Milan, Line::Genoa, Line::Turin] {
        let (_folder, tsm) = tsm(line);
        let mut source = ConfigFs::open(tsm.path(), None).unwrap();
        for data in [[1; 64], [2; 64]] {
            let report = source.report(&data).unwrap();
            assert_eq!(report.provider, Provider::Snp);
            assert_eq!(report.report.len(), 1184);
            assert_eq!(&report.report[field::REPORT_DATA..][..64], data);
            let record = certificates::record(&report.auxiliary).unwrap();
            let expected = tsm.change(|guest| {
                let platform = &guest.platform;
                [&platform.vek, &platform.intermediate, &platform.root].map(Vec::clone)
            });
            assert_eq!(certificates::split(&record), expected);
        }
    }
}

#[test]
fn a_host_without_certificates_gives_none() {
    let (_folder, tsm) = tsm(Line::Milan);
    tsm.change(|guest| guest.gives_certificates = false);
    let report = ConfigFs::open(tsm.path(), None).unwrap().report(&[1; 64]).unwrap();
    assert_eq!(report.auxiliary, b"");
}

#[test]
fn a_privilege_level_is_one_write_more() {
    let (_folder, tsm) = tsm(Line::Milan);
    let report = ConfigFs::open(tsm.path(), Some(0)).unwrap().report(&[1; 64]);
    assert!(report.is_ok(), "{report:?}");
}

#[test]
fn somebody_elses_write_is_noticed_and_the_report_asked_for_again() {
    let (_folder, tsm) = tsm(Line::Milan);
    let mut source = ConfigFs::open(tsm.path(), None).unwrap();
    tsm.conflict(3);
    let report = source.report(&[1; 64]).unwrap();
    assert_eq!(&report.report[field::REPORT_DATA..][..64], [1; 64]);
    assert_eq!(tsm.conflicts_left(), 0, "three attempts went before");
}

#[test]
fn an_interface_that_is_never_free_is_given_up() {
    let (_folder, tsm) = tsm(Line::Milan);
    tsm.conflict(u32::MAX);
    let refused = ConfigFs::open(tsm.path(), None).unwrap().report(&[1; 64]);
    assert_eq!(refused, Err(TeeError::Contended { attempts: 20 }));
}

#[test]
fn two_at_once_get_each_their_own() {
    let (_folder, tsm) = tsm(Line::Milan);
    let both: Vec<_> = [1u8, 2]
        .map(|byte| {
            let mut source = ConfigFs::open(tsm.path(), None).unwrap();
            std::thread::spawn(move || {
                let reports = (0..10).map(|_| source.report(&[byte; 64]).unwrap());
                reports.for_each(|report| assert_eq!(&report.report[field::REPORT_DATA..][..64], [byte; 64]));
            })
        })
        .into();
    for thread in both {
        thread.join().unwrap();
    }
}

#[test]
fn a_folder_that_nobody_serves_is_no_interface() {
    let folder = tempfile::tempdir().unwrap();
    let refused = ConfigFs::open(folder.path(), None).unwrap().report(&[1; 64]);
    assert!(matches!(refused, Err(TeeError::Missing { .. })), "{refused:?}");
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        0,
        "and no entry stays behind"
    );
}

#[test]
fn reports_of_a_driver_nobody_knows_are_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().to_owned();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = std::sync::Arc::clone(&stop);
    let service = std::thread::spawn(move || {
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            for entry in fs::read_dir(&base).unwrap().flatten() {
                if !entry.path().join("provider").exists() {
                    let _ = fs::write(entry.path().join("provider"), "cca_guest\n");
                    let _ = fs::write(entry.path().join("outblob"), "");
                }
            }
            std::thread::yield_now();
        }
    });
    let refused = ConfigFs::open(folder.path(), None).unwrap().report(&[1; 64]);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    service.join().unwrap();
    let found = "cca_guest".to_owned();
    assert_eq!(refused, Err(TeeError::Provider { found }));
}
