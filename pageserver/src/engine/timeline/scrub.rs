//! Scrub: reads every layer file on local disk and every layer object in the bucket at a bounded
//! rate, compares with the digests of the index, and repairs one copy from the other.
//!
//! A copy is only replaced by one whose digest is right. What is damaged in both places, or gone, is
//! reported and left as it is. Objects of older generations that nothing names are removed
//! ([`super::leftovers`]).

use super::Timeline;
use crate::engine::error::{Error, Result};
use crate::engine::layer::Layer;
use layer_format::Digest;
use std::time::Duration;
use tracing::{error, warn};

/// Bytes read of an object at a time.
const CHUNK: u64 = 4 << 20;
/// Shortest pause that is worth a timer.
const LEAST_PAUSE: Duration = Duration::from_millis(2);

/// What is scrubbed, how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Read local files.
    pub local: bool,
    /// Read objects.
    pub bucket: bool,
    /// Most bytes a second.
    pub rate: u64,
}

/// What a scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Layers of the timeline.
    pub layers: usize,
    /// Bytes read.
    pub bytes: u64,
    /// Layers whose index entry has no digest: only their sizes were compared.
    pub without_digest: usize,
    /// Local files that were wrong and fetched again.
    pub local_repaired: Vec<String>,
    /// Objects that were wrong or gone and written again.
    pub bucket_repaired: Vec<String>,
    /// Layers of which no good copy was found, and why.
    pub lost: Vec<String>,
    /// Layers of which a copy could not be read now, or what is left over that could not be listed or
    /// removed, and why.
    pub unchecked: Vec<String>,
    /// Objects of older generations that nothing named, removed.
    pub leftovers: usize,
}

impl Report {
    /// Adds the findings of another scrub.
    pub fn add(&mut self, other: Report) {
        self.layers += other.layers;
        self.bytes += other.bytes;
        self.without_digest += other.without_digest;
        self.local_repaired.extend(other.local_repaired);
        self.bucket_repaired.extend(other.bucket_repaired);
        self.lost.extend(other.lost);
        self.unchecked.extend(other.unchecked);
        self.leftovers += other.leftovers;
    }
}

/// True if an error says something about the data, not about the way to it.
fn is_damage(e: &Error) -> bool {
    match e {
        Error::Bucket(e) => e.kind() == bucket::Kind::NotFound,
        Error::Layer { .. } => true,
        _ => false,
    }
}

/// Spreads reading over time.
#[derive(Debug)]
pub struct Pace {
    rate: u64,
    due: Duration,
}

impl Timeline {
    /// Scrubs all layers.
    ///
    /// # Errors
    /// [`Error::Shutdown`], or [`Error::Conflict`] if the tenant was attached elsewhere; failures of
    /// single layers are in the report.
    pub async fn scrub(&self, options: Options) -> Result<Report> {
        self.scrub_at(options, &mut Pace::new(options.rate)).await
    }

    /// As [`Timeline::scrub`], at a pace that may be shared with others.
    pub async fn scrub_at(&self, options: Options, pace: &mut Pace) -> Result<Report> {
        let mut report = Report::default();
        // A pass takes days: a layer is held while it is read, or nothing that is replaced meanwhile
        // could be deleted before the end.
        let names: Vec<String> = self
            .layers()
            .files()
            .map(|l| l.name().to_string())
            .collect();
        for name in names {
            if self.cancel.is_cancelled() {
                return Err(Error::Shutdown);
            }
            let Some(layer) = self.layers().file(&name).cloned() else {
                continue;
            };
            report.layers += 1;
            if layer.entry().crc32c.is_none() {
                report.without_digest += 1;
            }
            self.scrub_layer(&layer, options, &mut report, pace).await;
        }
        if options.bucket {
            match self.remove_leftovers().await {
                Ok(count) => report.leftovers = count,
                Err(e @ (Error::Shutdown | Error::Conflict(_))) => return Err(e),
                Err(e) => report
                    .unchecked
                    .push(format!("objects of older generations: {e}")),
            }
        }
        let damaged = report.local_repaired.len() + report.bucket_repaired.len();
        self.shared
            .metrics
            .scrubbed(report.bytes, damaged, report.lost.len(), report.leftovers);
        Ok(report)
    }

    async fn scrub_layer(
        &self,
        layer: &Layer,
        options: Options,
        report: &mut Report,
        pace: &mut Pace,
    ) {
        let name = layer.name().to_string();
        let uploaded = self.remote.lock().await.holds(&name);
        let local = match options.local && layer.is_resident() {
            true => Some(layer.verify_local(&self.shared)),
            false => None,
        };
        if local.is_some() {
            report.bytes += layer.size();
            pace.wait(self, layer.size()).await;
        }
        let object = match options.bucket && uploaded {
            true => Some(self.verify_object(layer, report, pace).await),
            false => None,
        };
        let object = match object {
            Some(Err(e)) if !is_damage(&e) => {
                report.unchecked.push(format!("{name}: {e}"));
                None
            }
            known => known,
        };
        let outcome = match (local, object) {
            (Some(Err(damage)), Some(Err(gone))) => Err(format!("{damage}; in the bucket: {gone}")),
            (Some(Err(damage)), _) if !uploaded => Err(format!("{damage}; not in the bucket yet")),
            (Some(Err(damage)), _) => match layer.fetch_again(&self.shared, &damage).await {
                Ok(true) => {
                    report.local_repaired.push(name.clone());
                    Ok(())
                }
                Ok(false) => Ok(()),
                Err(e) if is_damage(&e) => Err(format!("{damage}; in the bucket: {e}")),
                Err(e) => {
                    report
                        .unchecked
                        .push(format!("{name}: {damage}; could not be fetched again: {e}"));
                    Ok(())
                }
            },
            (good, Some(Err(damage))) => {
                // A copy to repair from: the local one, if it is right.
                let good = good.unwrap_or_else(|| match layer.is_resident() {
                    true => layer.verify_local(&self.shared),
                    false => Err(Error::Internal("no local copy".into())),
                });
                let written = match good {
                    Ok(()) => self.put_back(layer).await,
                    Err(e) => Err(e),
                };
                if matches!(written, Ok(false)) {
                    return;
                }
                let written = written.map(|_| report.bucket_repaired.push(name.clone()));
                warn!(tenant = %self.tenant, timeline = %self.id, layer = %name, "object in the bucket: {damage}");
                written.map_err(|e| format!("in the bucket: {damage}; {e}"))
            }
            _ => Ok(()),
        };
        if let Err(why) = outcome {
            // Compaction may have replaced it meanwhile, or the timeline be deleted.
            if self.layers().has_file(&name) && !self.cancel.is_cancelled() {
                error!(tenant = %self.tenant, timeline = %self.id, layer = %name, "no good copy: {why}");
                report.lost.push(format!("{name}: {why}"));
            }
        }
    }

    /// Writes an object again from the local file. False if it is gone because the timeline is.
    async fn put_back(&self, layer: &Layer) -> Result<bool> {
        // A deletion notes it under this lock before it lists what is to go.
        let remote = self.remote.lock().await;
        if self.cancel.is_cancelled() || remote.index().deleted_at.is_some() {
            return Ok(false);
        }
        self.upload_layer(layer).await?;
        Ok(true)
    }

    /// Reads an object in full and compares it with the index.
    async fn verify_object(
        &self,
        layer: &Layer,
        report: &mut Report,
        pace: &mut Pace,
    ) -> Result<()> {
        let bucket = &self.shared.env.bucket;
        let key = layer.object_key(&self.tenant.tenant, &self.id);
        let size = bucket.head(&key).await?.size;
        if size != layer.size() {
            return Err(Error::layer(
                key,
                std::io::Error::other(format!("{size} bytes, {} in the index", layer.size())),
            ));
        }
        let Some(expected) = layer.entry().crc32c else {
            return Ok(());
        };
        let mut digest = Digest::new();
        let mut at = 0;
        while at < size {
            let end = size.min(at + CHUNK);
            let bytes = bucket.get_range(&key, at..end).await?;
            digest.update(&bytes);
            at = end;
            report.bytes += bytes.len() as u64;
            pace.wait(self, bytes.len() as u64).await;
        }
        if digest.crc32c() == expected {
            return Ok(());
        }
        let found = digest.crc32c();
        Err(Error::layer(
            key,
            std::io::Error::other(format!(
                "CRC-32C is {found:08x}, the index says {expected:08x}"
            )),
        ))
    }
}

impl Pace {
    /// At most so many bytes a second, from now on.
    pub fn new(rate: u64) -> Self {
        Pace {
            rate: rate.max(1),
            due: Duration::ZERO,
        }
    }

    /// Waits until bytes that were just read are paid for. Time without reading is not saved up.
    async fn wait(&mut self, timeline: &Timeline, bytes: u64) {
        let now = timeline.shared.env.clock.monotonic();
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        self.due = self.due.max(now) + cost;
        let pause = self.due.saturating_sub(now);
        // Shorter ones are made up for by the next.
        if pause >= LEAST_PAUSE {
            tokio::select! {
                biased;
                () = timeline.cancel.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}
