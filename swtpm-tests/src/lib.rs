//! The whole system against real software TPMs and recorded boots.
