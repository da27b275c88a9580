//! Names of the claims of TDX guests and of Azure's confidential VMs, by type. One that a quote has nothing for is absent.

/// Texts.
pub const TEXTS: [&str; 21] = [
    "tdx_body",
    "tdx_mrtd",
    "tdx_mr_seam",
    "tdx_mr_config_id",
    "tdx_mr_owner",
    "tdx_mr_owner_config",
    "tdx_rtmr0",
    "tdx_rtmr1",
    "tdx_rtmr2",
    "tdx_rtmr3",
    "tdx_event_log",
    "tdx_attributes",
    "tdx_xfam",
    "tdx_tee_tcb_svn",
    "tdx_tee_tcb_svn_now",
    "tdx_ppid",
    "tdx_platform_instance",
    "tdx_fmspc",
    "tdx_tcb_status",
    "tdx_qe_status",
    "azure_vm_id",
];
/// Numbers.
pub const NUMBERS: [&str; 4] = [
    "tdx_quote_version",
    "tdx_vm_id",
    "tdx_tcb_evaluation_number",
    "tdx_tcb_date",
];
/// Yes or no.
pub const FLAGS: [&str; 13] = [
    "tdx_debug",
    "tdx_sept_ve_disable",
    "tdx_migratable",
    "tdx_service_td",
    "tdx_pks",
    "tdx_perfmon",
    "tdx_key_locker",
    "tdx_lass",
    "tdx_smt",
    "tdx_dynamic_platform",
    "azure_secure_boot",
    "azure_console",
    "azure_tpm_persisted",
];
/// Sets of texts.
pub const SETS: [&str; 1] = ["tdx_advisories"];
