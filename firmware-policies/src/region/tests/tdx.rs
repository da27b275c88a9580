//! TDX guests.

use super::*;

const STATUSES: &[TcbStatus] = &[TcbStatus::UpToDate, TcbStatus::SwHardeningNeeded, TcbStatus::OutOfDate];
const STATUS_WORDS: &[&str] = &["UpToDate", "SWHardeningNeeded", "OutOfDate", "Revoked"];
const RTMRS: &[u8] = &[0, 1, 2, 3];

/// Status, evaluation number, registers that match a reference, platform.
type Td = (TcbStatus, u32, BTreeSet<u8>, Vec<u8>);

fn tds() -> impl Strategy<Value = Td> {
    let platform = key().prop_map(|id| vec![id; 16]);
    (select(STATUSES), 0..4u32, some(RTMRS), platform)
}

fn tdx_kept(policy: &TdxPolicy, (status, number, matching, platform): &Td) -> Kept {
    vec![
        ("tcb_status", policy.tcb_status.contains(status)),
        ("min_tcb_evaluation_number", *number >= policy.min_tcb_evaluation_number),
        ("registers", policy.registers.is_subset(matching)),
        ("denied_platforms", !policy.denied_platforms.contains(platform)),
    ]
}

fn tdx_policies() -> impl Strategy<Value = TdxPolicy> {
    (some(STATUSES), 0..4u32, some(RTMRS), keys(16)).prop_map(|(tcb_status, number, registers, denied_platforms)| {
        TdxPolicy {
            tcb_status,
            min_tcb_evaluation_number: number,
            registers,
            denied_platforms,
        }
    })
}

fn tdx_said() -> impl Strategy<Value = RegionTdx> {
    (
        of(words(STATUS_WORDS)),
        of(0..4u32),
        few(&[0u8, 1, 2, 3, 4]),
        hex_keys(16),
    )
        .prop_map(
            |(tcb_status, min_tcb_evaluation_number, registers, denied_platforms)| RegionTdx {
                tcb_status,
                min_tcb_evaluation_number,
                registers,
                denied_platforms,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn tdx_only_narrows(whole in tdx_policies(), said in tdx_said(), tds in vec(tds(), 8)) {
        let mut problems = Vec::new();
        let region = said.narrow(&whole, &mut Rules::new("f", &mut problems));
        for td in &tds {
            only_narrows(tdx_kept(&whole, td), tdx_kept(&region, td))?;
        }
    }
}
