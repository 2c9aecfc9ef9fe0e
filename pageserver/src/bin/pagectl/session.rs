//! The server that a command works with.

use crate::arguments::Global;
use crate::catalog::{Catalog, Tenant};
use anyhow::{Context as _, Result};
use api_client::Client;
use api_client::model::TenantInfo;
use std::collections::HashSet;
use tokio::task::JoinSet;

/// Requests under way at once.
const CONCURRENCY: usize = 16;

/// A server and how its answers are shown.
#[derive(Clone, Debug)]
pub struct Session {
    /// Its management API.
    pub client: Client,
    /// Address of the management API.
    pub server: String,
    /// Address of the page service.
    pub pages: String,
    /// JSON instead of tables.
    pub json: bool,
}

impl Session {
    /// From the command line.
    pub fn new(global: &Global) -> Session {
        let server = if global.server.contains("://") {
            global.server.clone()
        } else {
            format!("http://{}", global.server)
        };
        Session {
            client: Client::new(&server),
            server,
            pages: global.pages.clone(),
            json: global.json,
        }
    }

    /// All tenants with all timelines.
    pub async fn catalog(&self) -> Result<Catalog> {
        let tenants = self.client.tenants().await?;
        self.fill(tenants).await
    }

    /// What is needed to find a branch by this text.
    pub async fn catalog_for(&self, branch: &str) -> Result<Catalog> {
        let mut tenants = self.client.tenants().await?;
        let wanted: HashSet<_> = Catalog::worth_asking(&tenants, branch)
            .into_iter()
            .collect();
        tenants.retain(|t| wanted.contains(&t.id.tenant));
        self.fill(tenants).await
    }

    /// Tenants alone.
    pub async fn tenants(&self) -> Result<Catalog> {
        let bare = |info| Tenant {
            info,
            timelines: Vec::new(),
        };
        let tenants = self.client.tenants().await?;
        Ok(Catalog {
            tenants: tenants.into_iter().map(bare).collect(),
        })
    }

    /// A tenant with its timelines.
    pub async fn tenant(&self, text: &str) -> Result<Tenant> {
        let mut tenant = self.tenants().await?.tenant(text)?.clone();
        tenant.timelines = self.client.timelines(tenant.info.id).await?;
        Ok(tenant)
    }

    async fn fill(&self, infos: Vec<TenantInfo>) -> Result<Catalog> {
        let mut tenants = Vec::with_capacity(infos.len());
        let mut running = JoinSet::new();
        let mut rest = infos.into_iter().enumerate();
        loop {
            while running.len() < CONCURRENCY {
                let Some((i, info)) = rest.next() else { break };
                let client = self.client.clone();
                running.spawn(async move { (i, client.timelines(info.id).await, info) });
            }
            let Some(done) = running.join_next().await else {
                break;
            };
            let (i, timelines, info) = done.context("asking for timelines")?;
            match timelines {
                Ok(timelines) => tenants.push((i, Tenant { info, timelines })),
                // Deleted since it was listed.
                Err(e) if e.status() == Some(404) => {}
                Err(e) => return Err(e.into()),
            }
        }
        tenants.sort_by_key(|(i, _)| *i);
        Ok(Catalog {
            tenants: tenants.into_iter().map(|(_, t)| t).collect(),
        })
    }
}
