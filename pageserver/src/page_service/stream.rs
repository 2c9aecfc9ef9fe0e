//! A pagestream: requests for pages, sizes and SLRU segments, answered in order.

use super::handler::find;
use crate::engine::timeline::Pin;
use crate::engine::{Engine, Error as EngineError, ErrorKind, Timeline};
use page_protocol::Error;
use page_protocol::message::{Answer, Header, Query, Relation, Request};
use page_protocol::server::{PageStream, Responses};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tracing::warn;
use types::{Fork, PAGE_SIZE, RelTag, SlruKind, TenantId, TenantShardId, TimelineId};

/// One open pagestream.
#[derive(Debug)]
pub struct Stream {
    engine: Arc<Engine>,
    tenant: TenantId,
    id: TimelineId,
    timeline: Option<Arc<Timeline>>,
    wait_limit: Duration,
}

/// A request cannot be answered: in-band, the stream goes on; or it ends.
enum Refusal {
    Request(String),
    Stream(Error),
}

impl From<EngineError> for Refusal {
    fn from(e: EngineError) -> Self {
        match e.kind() {
            ErrorKind::Shutdown => Refusal::Stream(Error::Shutdown),
            ErrorKind::BadRequest => Refusal::Request(format!("Bad request: {e}")),
            ErrorKind::Timeout => Refusal::Request(format!("LSN timeout: {e}")),
            ErrorKind::NotFound => Refusal::Request(format!("Not found: {e}")),
            _ => {
                warn!("read failed: {e}");
                Refusal::Request(format!("Read error: {e}"))
            }
        }
    }
}

impl Stream {
    pub(super) fn new(
        engine: Arc<Engine>,
        tenant: TenantId,
        id: TimelineId,
        wait_limit: Duration,
    ) -> Self {
        Stream {
            engine,
            tenant,
            id,
            timeline: None,
            wait_limit,
        }
    }

    async fn timeline(&mut self) -> Result<Arc<Timeline>, Error> {
        if let Some(t) = &self.timeline {
            if t.check_active().is_ok() {
                return Ok(Arc::clone(t));
            }
            self.timeline = None;
        }
        let tenant = TenantShardId::unsharded(self.tenant);
        let timeline = find(&self.engine, tenant, self.id, self.wait_limit).await?;
        self.timeline = Some(Arc::clone(&timeline));
        Ok(timeline)
    }

    /// The LSN a request is answered at, once everything up to it was ingested, and kept readable
    /// until the answer is made.
    async fn effective(&self, timeline: &Timeline, header: &Header) -> Result<Pin, Refusal> {
        let (request, unmodified) = (header.request_lsn, header.not_modified_since);
        if request < unmodified {
            return Err(Refusal::Request(format!(
                "Bad request: invalid request with request LSN {request} and not_modified_since {unmodified}"
            )));
        }
        if !request.is_valid() {
            return Err(Refusal::Request(
                "Bad request: invalid LSN(0) in request".into(),
            ));
        }
        let last = timeline.last_record_lsn();
        if unmodified > last {
            timeline.wait_lsn(unmodified, self.wait_limit).await?;
            return Ok(timeline.pin(unmodified)?);
        }
        Ok(timeline.pin(last.min(request))?)
    }

    async fn pages(
        &self,
        timeline: &Timeline,
        requests: &[Request],
        out: &mut Responses<'_>,
    ) -> Result<(), Error> {
        // All of them stay readable until the answers are made.
        let mut pins = Vec::with_capacity(requests.len());
        let mut asked = Vec::with_capacity(requests.len());
        let mut refused = Vec::with_capacity(requests.len());
        for request in requests {
            let question = self.question(timeline, request).await;
            refused.push(match question {
                Ok((rel, block, pin)) => {
                    asked.push((rel, block, pin.lsn()));
                    pins.push(pin);
                    None
                }
                Err(refusal) => Some(refusal),
            });
        }
        let mut pages = timeline.page_batch(&asked).await.into_iter();
        for refusal in refused {
            let answer = match refusal {
                Some(refusal) => Err(refusal),
                None => match pages.next() {
                    Some(page) => page.map_err(Refusal::from),
                    None => Err(Refusal::Stream(Error::internal("a page is missing"))),
                },
            };
            match answer {
                Ok(page) => out.page(|slot| match page.first_chunk::<PAGE_SIZE>() {
                    Some(bytes) => {
                        slot.copy_from_slice(bytes);
                        Ok(())
                    }
                    None => Err(Error::internal(format!("page of {} bytes", page.len()))),
                })?,
                Err(Refusal::Request(text)) => out.error(&text)?,
                Err(Refusal::Stream(e)) => return Err(e),
            }
        }
        self.engine
            .metrics()
            .pages_served
            .inc_by(requests.len() as u64);
        Ok(())
    }

    /// Which page a request asks for, and at which LSN.
    async fn question(
        &self,
        timeline: &Timeline,
        request: &Request,
    ) -> Result<(RelTag, u32, Pin), Refusal> {
        let Query::GetPage { rel, block } = &request.query else {
            return Err(Refusal::Stream(Error::internal(
                "a batch of pages holds another request",
            )));
        };
        let rel = tag(rel)?;
        let pin = self.effective(timeline, &request.header).await?;
        Ok((rel, *block, pin))
    }

    async fn other(
        &self,
        timeline: &Timeline,
        request: &Request,
    ) -> Result<Answer<'static>, Refusal> {
        if let Query::Test { batch_key, message } = &request.query {
            return Ok(Answer::Test {
                batch_key: *batch_key,
                message: Cow::Owned(message.clone()),
            });
        }
        let pin = self.effective(timeline, &request.header).await?;
        let lsn = pin.lsn();
        Ok(match &request.query {
            Query::Exists(rel) => Answer::Exists(timeline.relation_exists(tag(rel)?, lsn).await?),
            Query::Nblocks(rel) => Answer::Nblocks(timeline.relation_size(tag(rel)?, lsn).await?),
            Query::DbSize { db } => {
                let size = timeline.database_size(*db, lsn).await?;
                Answer::DbSize(i64::try_from(size).unwrap_or(i64::MAX))
            }
            _ => return Err(Refusal::Request("Bad request: unknown request".into())),
        })
    }

    async fn segment(
        &self,
        timeline: &Timeline,
        request: &Request,
        kind: u8,
        segment: u32,
    ) -> Result<bytes::Bytes, Refusal> {
        let pin = self.effective(timeline, &request.header).await?;
        let Some(kind) = SlruKind::from_u32(u32::from(kind)) else {
            return Err(Refusal::Request("Bad request: invalid SLRU kind".into()));
        };
        Ok(timeline.slru_segment(kind, segment, pin.lsn()).await?)
    }
}

fn tag(rel: &Relation) -> Result<RelTag, Refusal> {
    match rel.tag() {
        Some(tag) if tag.rel != 0 && Fork::from_u8(rel.fork).is_some() => Ok(tag),
        _ => Err(Refusal::Request("Read error: invalid relation".into())),
    }
}

impl PageStream for Stream {
    async fn handle(&mut self, requests: &[Request], out: &mut Responses<'_>) -> Result<(), Error> {
        let timeline = match self.timeline().await {
            Ok(t) => t,
            Err(e) if requests.first().is_some_and(Request::is_get_page) => {
                if matches!(e, Error::Shutdown) {
                    return Err(e);
                }
                for _ in requests {
                    out.error(&format!("Not found: {}", e.extended_text()))?;
                }
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        let Some(first) = requests.first() else {
            return Ok(());
        };
        if first.is_get_page() {
            return self.pages(&timeline, requests, out).await;
        }
        let refusal = match &first.query {
            Query::GetSlruSegment { kind, segment } => {
                match self.segment(&timeline, first, *kind, *segment).await {
                    Ok(bytes) => {
                        let pages = bytes.len() / types::PAGE_SIZE;
                        return out.slru_segment(pages, |slot| {
                            slot.copy_from_slice(&bytes);
                            Ok(())
                        });
                    }
                    Err(refusal) => refusal,
                }
            }
            _ => match self.other(&timeline, first).await {
                Ok(answer) => return Ok(out.answer(&answer)?),
                Err(refusal) => refusal,
            },
        };
        match refusal {
            Refusal::Request(text) => Ok(out.error(&text)?),
            Refusal::Stream(e) => Err(e),
        }
    }
}
