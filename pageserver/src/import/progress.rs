//! How far an import is, for whoever asks.

use parking_lot::Mutex;
use serde::Serialize;

/// What an import is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Looking at the primary.
    #[default]
    Checking,
    /// Copying files.
    Backup,
    /// Fetching the WAL that makes them consistent.
    Wal,
    /// Bringing it all into the bucket.
    Upload,
    /// Following the primary.
    Done,
    /// Removing what was made so far.
    Undoing,
    /// Failed or cancelled; nothing is left.
    Failed,
}

/// A moment of an import.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Default)]
pub struct Snapshot {
    /// What it is doing.
    pub phase: Phase,
    /// Bytes of files received.
    pub bytes_done: u64,
    /// Bytes of files expected, by the primary's estimate.
    pub bytes_total: u64,
    /// What is not as it should be on the primary.
    pub warnings: Vec<String>,
    /// Why it failed.
    pub error: Option<String>,
}

/// Progress of one import.
#[derive(Debug, Default)]
pub struct Progress(Mutex<Snapshot>);

impl Progress {
    /// The current state.
    pub fn snapshot(&self) -> Snapshot {
        self.0.lock().clone()
    }

    pub(super) fn phase(&self, phase: Phase) {
        self.0.lock().phase = phase;
    }

    pub(super) fn total(&self, bytes: u64) {
        self.0.lock().bytes_total = bytes;
    }

    pub(super) fn done(&self, bytes: u64) {
        self.0.lock().bytes_done = bytes;
    }

    pub(super) fn warn(&self, text: String) {
        self.0.lock().warnings.push(text);
    }

    /// Marks the import as failed.
    pub fn failed(&self, error: String) {
        let mut s = self.0.lock();
        s.phase = Phase::Failed;
        s.error = Some(error);
    }
}
