//! The pageserver daemon.
