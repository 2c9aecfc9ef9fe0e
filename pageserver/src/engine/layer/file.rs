//! The local file of a layer: fetched, verified, evicted, put aside.

use super::Layer;
use crate::engine::damage;
use crate::engine::env::Env;
use crate::engine::error::{Error, Result};
use crate::engine::shared::Shared;
use layer_format::Digest;
use tracing::{error, info};

/// Buffer for verifying a downloaded file.
const VERIFY_CHUNK: usize = 1 << 20;

impl Layer {
    /// Reads the local file in full and compares it with the index.
    pub fn verify_local(&self, shared: &Shared) -> Result<()> {
        let env = &shared.env;
        env.blocking(|| self.verify_file(env, &self.local_path()))
    }

    /// Removes the local file of a layer that is in the bucket. Readers under way go on with it; the
    /// next one fetches it again. False if there was none.
    pub async fn evict(&self, shared: &Shared) -> Result<bool> {
        let _one_at_a_time = self.opening.lock().await;
        if !self.is_resident() {
            return Ok(false);
        }
        match shared.env.disk.remove(&self.local_path()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        self.set_resident(false);
        self.opened.close();
        shared.metrics.evicted(self.entry.file_size);
        Ok(true)
    }

    /// Fetches the file unless it is on local disk. False if it is.
    pub async fn fetch(&self, shared: &Shared) -> Result<bool> {
        let _one_at_a_time = self.opening.lock().await;
        if self.is_resident() {
            return Ok(false);
        }
        self.download(shared).await?;
        Ok(true)
    }

    /// Puts the local file aside and fetches it again. False if it was evicted meanwhile: there is
    /// nothing to put aside.
    pub async fn fetch_again(&self, shared: &Shared, why: &Error) -> Result<bool> {
        let _one_at_a_time = self.opening.lock().await;
        if !self.is_resident() {
            return Ok(false);
        }
        self.quarantine(shared, why)?;
        self.download(shared).await?;
        Ok(true)
    }

    /// Fetches the file from the bucket and verifies all of it.
    pub(super) async fn download(&self, shared: &Shared) -> Result<()> {
        let env = &shared.env;
        let path = self.local_path();
        let temp = format!("{path}.___temp");
        env.disk.create_dir_all(&self.directory)?;
        remove_if_there(env, &temp)?;
        let fetched = match self.fetch_to(env, &temp).await {
            Ok(()) => env.disk.rename(&temp, &path).map_err(Error::from),
            Err(e) => Err(e),
        };
        if let Err(e) = fetched {
            if let Err(e) = remove_if_there(env, &temp) {
                info!(file = %temp, "not removed now, will be at the next try: {e}");
            }
            return Err(e);
        }
        env.disk.sync_dir(&self.directory)?;
        self.set_resident(true);
        shared.metrics.downloaded(self.entry.file_size);
        info!(tenant = %self.tenant, timeline = %self.timeline, layer = %self.name, bytes = self.entry.file_size, "downloaded");
        Ok(())
    }

    /// Fetches the object into a file under a temporary name.
    async fn fetch_to(&self, env: &Env, temp: &str) -> Result<()> {
        let key = self.object_key(&self.tenant.tenant, &self.timeline);
        match env.disk.host_path(temp) {
            Some(host) => {
                env.bucket.download(&key, &host).await?;
            }
            None => {
                let object = env.bucket.get(&key).await?;
                let mut file = env.disk.create(temp)?;
                file.append(&object.body)?;
                file.sync()?;
            }
        }
        env.blocking(|| self.verify_file(env, temp))
    }

    fn verify_file(&self, env: &Env, path: &str) -> Result<()> {
        let file = env.disk.open(path)?;
        let len = file.len()?;
        let wrong = |text: String| Error::layer(path, std::io::Error::other(text));
        if len != self.entry.file_size {
            return Err(wrong(format!(
                "{len} bytes fetched, {} in the index",
                self.entry.file_size
            )));
        }
        let Some(expected) = self.entry.crc32c else {
            return Ok(());
        };
        let mut digest = Digest::new();
        let chunk = usize::try_from(len).map_or(VERIFY_CHUNK, |n| n.min(VERIFY_CHUNK));
        let mut buf = vec![0u8; chunk];
        let mut at = 0u64;
        while at < len {
            let n = usize::try_from(len - at)
                .unwrap_or(usize::MAX)
                .min(VERIFY_CHUNK);
            let part = buf.get_mut(..n).unwrap_or_default();
            file.read_exact_at(part, at)?;
            digest.update(part);
            at += n as u64;
        }
        if digest.crc32c() == expected {
            return Ok(());
        }
        Err(wrong(format!(
            "CRC-32C of the file is {:08x}, the index says {expected:08x}; {}",
            digest.crc32c(),
            damage::locate(&*file, len)
        )))
    }

    pub(super) async fn put_aside(&self, shared: &Shared, why: &Error) -> Result<()> {
        let _one_at_a_time = self.opening.lock().await;
        self.quarantine(shared, why)
    }

    /// Moves a damaged local file out of the way.
    pub(super) fn quarantine(&self, shared: &Shared, why: &Error) -> Result<()> {
        let path = self.local_path();
        error!(tenant = %self.tenant, timeline = %self.timeline, file = %path, "damaged, put aside and fetched again: {why}");
        // A file that cannot be read has not failed verification.
        if !matches!(why, Error::Disk(_)) {
            shared.metrics.checksum_failed();
        }
        self.opened.close();
        self.set_resident(false);
        match shared.env.disk.rename(&path, &format!("{path}.damaged")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }
}

fn remove_if_there(env: &Env, path: &str) -> Result<()> {
    match env.disk.remove(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}
