//! The archive on its way out: tar entries, perhaps compressed.

use flate2::Compression;
use flate2::write::GzEncoder;
use page_protocol::Error;
use page_protocol::server::CopyOut;
use pg_format::tar::{self, Item};
use std::io::Write;

/// Compressed bytes are handed on in pieces of about this size.
const DRAIN: usize = 64 << 10;

/// Writes tar entries.
pub struct Out<'a, 'c> {
    copy: &'a mut CopyOut<'c>,
    gzip: Option<GzEncoder<Vec<u8>>>,
    mtime: u64,
}

impl<'a, 'c> Out<'a, 'c> {
    /// An archive whose entries were modified at `mtime`, in seconds since 1970.
    pub fn new(copy: &'a mut CopyOut<'c>, mtime: u64, gzip: bool) -> Self {
        let gzip = gzip.then(|| GzEncoder::new(Vec::new(), Compression::fast()));
        Out { copy, gzip, mtime }
    }

    /// Raw bytes of the archive.
    pub async fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        match &mut self.gzip {
            None => self.copy.write(bytes).await,
            Some(gzip) => {
                gzip.write_all(bytes).map_err(|e| Error::chain(&e))?;
                if gzip.get_ref().len() >= DRAIN {
                    let ready = std::mem::take(gzip.get_mut());
                    self.copy.write(&ready).await?;
                }
                Ok(())
            }
        }
    }

    async fn header(&mut self, path: &str, item: Item) -> Result<(), Error> {
        let header = tar::header(path, item, self.mtime).map_err(|e| Error::chain(&e))?;
        self.bytes(&header).await
    }

    /// A directory.
    pub async fn directory(&mut self, path: &str) -> Result<(), Error> {
        self.header(path, Item::Directory).await
    }

    /// A file in one piece.
    pub async fn file(&mut self, path: &str, content: &[u8]) -> Result<(), Error> {
        self.begin(path, content.len() as u64).await?;
        self.bytes(content).await?;
        self.end(content.len() as u64).await
    }

    /// Announces a file of `size` bytes, which follow through [`Out::bytes`].
    pub async fn begin(&mut self, path: &str, size: u64) -> Result<(), Error> {
        self.header(path, Item::File(size)).await
    }

    /// Ends a file of `size` bytes.
    pub async fn end(&mut self, size: u64) -> Result<(), Error> {
        let padding = [0u8; tar::BLOCK];
        match padding.get(..tar::padding(size)) {
            Some(p) => self.bytes(p).await,
            None => Err(Error::internal("padding of more than a block")),
        }
    }

    /// Writes the end marker.
    pub async fn finish(mut self) -> Result<(), Error> {
        self.bytes(&tar::END).await?;
        if let Some(gzip) = self.gzip.take() {
            let rest = gzip.finish().map_err(|e| Error::chain(&e))?;
            self.copy.write(&rest).await?;
        }
        Ok(())
    }
}
