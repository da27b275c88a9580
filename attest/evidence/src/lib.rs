//! What travels from an Attester to a Verifier: the CMW collection and the binder that ties every part of it together.
