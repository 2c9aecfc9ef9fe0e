//! A server with a made-up handler and the client of this crate, over an in-memory pipe.

mod backup;
mod connection;
mod pages;

use super::*;
use crate::client::{Connection, Options};
use crate::message::{Query, Relation, Version};
use std::sync::{Arc, Mutex};
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;
use types::{Lsn, PAGE_SIZE, TimelineId};

const TENANT: TenantId = TenantId([7; 16]);
const TIMELINE: TimelineId = TimelineId([9; 16]);

/// Relations for which the handler misbehaves; 0 is a read error.
const RECONNECTS: u32 = 1000;
const NOT_FOUND: u32 = 1001;
const HANGS: u32 = 1002;
const FORGETS: u32 = 1003;

/// A compressed "backup" at these positions fails before, or after, some bytes.
const FAILS_AT_ONCE: Lsn = Lsn(1);
const FAILS_LATER: Lsn = Lsn(2);

#[derive(Clone)]
struct Fake {
    authentication: Authentication,
    batches: Arc<Mutex<Vec<usize>>>,
    log: Arc<Mutex<Vec<String>>>,
}

struct FakeStream {
    batches: Arc<Mutex<Vec<usize>>>,
}

fn fill(rel: u32, block: u32, page: &mut [u8; PAGE_SIZE]) {
    page[..4].copy_from_slice(&rel.to_be_bytes());
    page[4..8].copy_from_slice(&block.to_be_bytes());
    page[PAGE_SIZE - 1] = 0xEE;
}

fn page(rel: u32, block: u32) -> [u8; PAGE_SIZE] {
    let mut page = [0; PAGE_SIZE];
    fill(rel, block, &mut page);
    page
}

fn rel(rel: u32) -> Relation {
    Relation {
        spc: 1663,
        db: 5,
        rel,
        fork: 0,
    }
}

fn backup_bytes(n: usize) -> Vec<u8> {
    (0..n).map(|at| (at % 253) as u8).collect()
}

impl Handler for Fake {
    type Session = String;
    type Stream = FakeStream;

    fn authentication(&self) -> Authentication {
        self.authentication
    }

    async fn authenticate(&self, _: &Startup, token: Option<&str>) -> Result<String, Error> {
        match token {
            Some("bad") => Err(Error::Unauthorized("signature".into())),
            token => Ok(token.unwrap_or("nobody").to_owned()),
        }
    }

    fn authorize(&self, session: &String, tenant: TenantId) -> Result<(), Error> {
        match tenant == TENANT {
            true => Ok(()),
            false => Err(Error::Unauthorized(format!(
                "{session} may not use {tenant}"
            ))),
        }
    }

    async fn open_stream(&self, _: &String, _: &OpenStream) -> Result<FakeStream, Error> {
        Ok(FakeStream {
            batches: Arc::clone(&self.batches),
        })
    }

    async fn base_backup(
        &self,
        _: &String,
        command: &BaseBackup,
        out: &mut CopyOut<'_>,
    ) -> Result<(), Error> {
        if command.lsn == Some(FAILS_AT_ONCE) {
            return Err(Error::NotFound("timeline".into()));
        }
        self.log.lock().unwrap().push("begin".into());
        out.write(&backup_bytes(5000)).await?;
        if command.lsn == Some(FAILS_LATER) {
            return Err(Error::chain(&std::io::Error::other("disk on fire")));
        }
        out.write(&backup_bytes(300_000)).await?;
        self.log
            .lock()
            .unwrap()
            .push(format!("end {}", out.bytes()));
        Ok(())
    }

    async fn full_backup(
        &self,
        _: &String,
        _: &FullBackup,
        _: &mut CopyOut<'_>,
    ) -> Result<(), Error> {
        Ok(())
    }

    async fn lease_lsn(&self, _: &String, command: &LeaseLsn) -> Result<Option<u64>, Error> {
        match command.lsn {
            Lsn(1) => Ok(None),
            Lsn(2) => Err(Error::Shutdown),
            _ => Ok(Some(1_760_000_000_000)),
        }
    }
}

impl PageStream for FakeStream {
    async fn handle(&mut self, requests: &[Request], out: &mut Responses<'_>) -> Result<(), Error> {
        self.batches.lock().unwrap().push(requests.len());
        for request in requests {
            match &request.query {
                Query::GetPage { rel, block } => match rel.rel {
                    0 => out.error("Read error")?,
                    RECONNECTS => return Err(Error::Reconnect),
                    NOT_FOUND => return Err(Error::NotFound("shard".into())),
                    HANGS => {
                        let mut pages = out.pages(1)?;
                        pages.slots().for_each(|page| page.fill(0xAA));
                        std::future::pending::<()>().await;
                    }
                    FORGETS => {}
                    _ => {
                        tokio::task::yield_now().await;
                        out.page(|page| {
                            fill(rel.rel, *block, page);
                            Ok::<_, Error>(())
                        })?;
                    }
                },
                Query::Exists(rel) => out.answer(&crate::Answer::Exists(rel.rel > 5))?,
                Query::Nblocks(rel) => out.answer(&crate::Answer::Nblocks(rel.rel * 2))?,
                Query::DbSize { db } => {
                    out.answer(&crate::Answer::DbSize(i64::from(*db) * 8192))?
                }
                Query::GetSlruSegment { segment, .. } => {
                    out.slru_segment(usize::try_from(*segment).unwrap(), |pages| {
                        pages.fill(3);
                        Ok::<_, Error>(())
                    })?;
                }
                Query::Test { batch_key, message } => out.answer(&crate::Answer::Test {
                    batch_key: *batch_key,
                    message: message.as_str().into(),
                })?,
            }
        }
        Ok(())
    }
}

struct Running {
    handler: Fake,
    stop: CancellationToken,
    server: JoinHandle<Result<Closed, Failure>>,
}

impl Running {
    async fn closed(self) -> Closed {
        self.server.await.unwrap().unwrap()
    }

    async fn failed(self) -> Failure {
        self.server.await.unwrap().unwrap_err()
    }
}

fn start_with(authentication: Authentication, pipe: usize) -> (DuplexStream, Running) {
    let (near, far) = tokio::io::duplex(pipe);
    let handler = Fake {
        authentication,
        batches: Arc::default(),
        log: Arc::default(),
    };
    let stop = CancellationToken::new();
    let server = {
        let (handler, stop) = (handler.clone(), stop.clone());
        tokio::spawn(async move { serve(far, &handler, &Config::default(), &stop).await })
    };
    (
        near,
        Running {
            handler,
            stop,
            server,
        },
    )
}

fn start() -> (DuplexStream, Running) {
    start_with(Authentication::Trust, 64 << 10)
}

async fn connect() -> (Connection<DuplexStream>, Running) {
    let (io, running) = start();
    (
        Connection::handshake(io, &Options::default())
            .await
            .unwrap(),
        running,
    )
}

async fn stream(version: Version) -> (crate::client::PageStream<DuplexStream>, Running) {
    let (connection, running) = connect().await;
    (
        connection
            .page_stream(version, TENANT, TIMELINE)
            .await
            .unwrap(),
        running,
    )
}
