//! Evidence, Endorsements, Reference Values, policy and a time in; an Attestation Result out. Pure: no I/O, no clock, no panic.
