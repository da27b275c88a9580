//! The stable codes of every refusal of an NVIDIA attestation report.

touchstone_cose::reason_codes! {
    /// Why the attestation report of a GPU or NVSwitch, or the chain of its key, was refused.
    pub enum GpuCode {
        ReportMalformed = "gpu-report-malformed":
            "The bytes are not an SPDM 1.1 measurement exchange as NVIDIA's driver gives it. Send request and response as they came, binary or hexadecimal.",
        CertificatesMissing = "gpu-certificates-missing":
            "A GPU report came without the certificate chain of its device. Send the chains in the order of the reports.",
        ChainMalformed = "gpu-chain-malformed":
            "The certificates of a GPU are not one DER certificate after the other, the attestation key's first. Ask the driver for the attestation certificate chain again.",
        KeyRefused = "gpu-key-refused":
            "The first certificate of the chain is not that of an attestation key: another kind of key, another use, or no firmware identity in it.",
        ProductUnknown = "gpu-product-unknown":
            "The device identity certificate names a chip this version does not know, so its fields can not be read. Use a newer version.",
        SignatureInvalid = "gpu-signature-invalid":
            "The report's signature does not verify under the certified attestation key: it was altered, or the chain is another device's.",
        FirmwareIdMismatch = "gpu-fwid-mismatch":
            "The firmware identity in the report is not the one its certificate was issued for: report and chain do not belong together.",
        NonceMismatch = "gpu-nonce-mismatch":
            "The GPU report answers another challenge: it is old, replayed or meant for someone else. Ask for a report over the challenge.",
        ProductRefused = "gpu-product-refused":
            "The policy does not accept devices of this chip.",
        DeviceDenied = "gpu-device-denied":
            "The policy lists this very device as one that is not to be trusted.",
        DriverTooOld = "gpu-driver-too-old":
            "The driver that set the GPU up is older than the policy allows, or the report names none. Update the driver.",
        VbiosTooOld = "gpu-vbios-too-old":
            "The firmware of the device is older than the policy allows. Update the VBIOS.",
        InsecureMode = "gpu-mode-refused":
            "The device is not in a state in which it protects what it works on. Set it to confidential computing, lock the switch.",
        ReferenceMissing = "gpu-reference-missing":
            "No reference values exist for this chip. Add a signed reference with reference add --evidence GOLDEN.",
        ReferenceMismatch = "gpu-reference-mismatch":
            "Driver, VBIOS or mode of the device is that of no reference. Add one from a machine with these versions, or go back to a known one.",
        ReferenceOutOfForce = "gpu-reference-out-of-force":
            "The device matches a reference that has expired or is not yet in force. Sign it anew, or update the device.",
        MeasurementMismatch = "gpu-measurement-mismatch":
            "A measurement of the device differs from the reference: its firmware or configuration was changed, or debugging was turned on.",
        DeviceTwice = "gpu-device-twice":
            "Two reports come from the same device: each device counts once. Send one report a device.",
    }
}
