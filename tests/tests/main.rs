//! End-to-end tests against real servers. One behaviour per file, listed here.
//!
//! Needs `npm` once, to fetch Postgres, and Debian's client programs; `cargo xtask test` sees to both.

#![cfg(test)]

mod bad_input_is_refused;
mod branches_are_archived;
mod branches_are_detached;
mod branches_read_their_own_past;
mod corruption_is_detected;
mod every_file_is_listed;
mod exports_equal_recovery;
mod failed_imports_leave_nothing;
mod full_disk_does_not_lose_wal;
mod harness_runs_every_major;
mod pages_carry_checksums;
mod pages_equal_the_primary_on_every_major;
mod receiver_resumes;
mod redo_equals_recovery;
mod redo_matches_consistency_images;
mod replication_base_backup_restores;
mod replication_follows_a_promotion;
mod replication_login;
mod replication_lost_history_is_recognised;
mod replication_preflight_finds_problems;
mod replication_slot_lifecycle;
mod replication_stream_reports_positions;
mod replication_stream_survives_silence;
mod restart_from_s3;
mod sizes_of_tenants_are_told;
mod survives_kill_9;
mod survives_loss_of_local_disk;
mod two_daemons_on_one_bucket;
