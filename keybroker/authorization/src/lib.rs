//! What a Relying Party needs: an authorization, a proof of possession and a trust state in, allow or a reason out. No I/O, no clock.
