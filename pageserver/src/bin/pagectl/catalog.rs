//! Names for people: which tenant or timeline a text on the command line means.
//!
//! A tenant is called by its name or id. A timeline is called by its name or id, or `main` if it has
//! no name and no ancestor and no other of its tenant has that name; alone, or behind its tenant and
//! a slash. Whatever a text fits more than once is refused, with all that it fits. Ids win over names.

use api_client::model::{TenantInfo, TimelineInfo};
use types::{TenantId, TenantShardId, TimelineId};

/// Name of an unnamed timeline without ancestor.
pub const MAIN: &str = "main";
/// Longest name of a tenant or branch, in bytes.
pub const MAX_NAME: usize = 63;
/// Names listed in a message.
const MAX_LISTED: usize = 20;

/// A tenant and its timelines.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// The tenant.
    pub info: TenantInfo,
    /// Its timelines.
    pub timelines: Vec<TimelineInfo>,
}

/// Tenants with their timelines.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// The tenants.
    pub tenants: Vec<Tenant>,
}

/// A timeline that was looked for.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Its tenant.
    pub tenant: &'a Tenant,
    /// The timeline.
    pub timeline: &'a TimelineInfo,
}

/// A name means nothing, or too much.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No such tenant.
    #[error("there is no tenant {text:?}; {}", listed("tenants", known))]
    NoTenant {
        /// What was asked for.
        text: String,
        /// What there is.
        known: Vec<String>,
    },
    /// No such timeline.
    #[error("there is no branch {text:?}; {}", listed("branches", known))]
    NoBranch {
        /// What was asked for.
        text: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A tenant where a branch was expected.
    #[error(
        "{text:?} is a tenant, not a branch; {}",
        listed("its branches", known)
    )]
    TenantGiven {
        /// What was asked for.
        text: String,
        /// Branches of it.
        known: Vec<String>,
    },
    /// Several fit.
    #[error("{text:?} can mean several; say which: {}", candidates.join(", "))]
    Ambiguous {
        /// What was asked for.
        text: String,
        /// What it can mean, each in a form that is not ambiguous.
        candidates: Vec<String>,
    },
    /// Not fit to be a name.
    #[error("{text:?} cannot be a name: {reason}")]
    Unfit {
        /// The text.
        text: String,
        /// Why.
        reason: &'static str,
    },
}

fn listed(what: &str, known: &[String]) -> String {
    let shown: Vec<&str> = known.iter().take(MAX_LISTED).map(String::as_str).collect();
    match known.len().saturating_sub(MAX_LISTED) {
        _ if known.is_empty() => format!("{what}: none"),
        0 => format!("{what}: {}", shown.join(", ")),
        more => format!("{what}: {} and {more} more", shown.join(", ")),
    }
}

/// Checks a name for something new.
pub fn check_name(text: &str) -> Result<(), NameError> {
    let reason = if text.is_empty() {
        "it is empty"
    } else if text.len() > MAX_NAME {
        "it is longer than 63 bytes"
    } else if text.contains('/') || text.contains(|c: char| c.is_control() || c.is_whitespace()) {
        "it contains a slash, white space or a control character"
    } else if text.starts_with('-') {
        "it starts with a dash and would be taken for an option"
    } else if text.parse::<TimelineId>().is_ok() {
        "it looks like an id"
    } else {
        return Ok(());
    };
    Err(NameError::Unfit {
        text: text.to_owned(),
        reason,
    })
}

impl Tenant {
    /// What to call it.
    pub fn label(&self) -> String {
        match &self.info.name {
            Some(name) if !name.is_empty() => name.clone(),
            _ => self.info.id.to_string(),
        }
    }

    fn has_name(&self, text: &str) -> bool {
        self.info.name.as_deref() == Some(text) && !text.is_empty()
    }

    fn has_id(&self, text: &str) -> bool {
        text.parse::<TenantShardId>().is_ok_and(|id| {
            id == self.info.id || id == TenantShardId::unsharded(self.info.id.tenant)
        })
    }

    /// What to call a timeline of it, without the tenant.
    pub fn name_of(&self, timeline: &TimelineInfo) -> String {
        if let Some(name) = timeline.name.as_deref().filter(|n| !n.is_empty()) {
            return name.to_owned();
        }
        let others = |t: &&TimelineInfo| t.timeline_id != timeline.timeline_id;
        let taken = self.timelines.iter().filter(others).any(is_called_main);
        if is_called_main(timeline) && !taken {
            MAIN.to_owned()
        } else {
            timeline.timeline_id.to_string()
        }
    }

    /// True if a branch of it is called that.
    pub fn has_branch(&self, name: &str) -> bool {
        self.timelines.iter().any(|t| self.name_of(t) == name)
    }
}

fn is_called_main(t: &TimelineInfo) -> bool {
    match t.name.as_deref() {
        None | Some("") => t.ancestor_timeline_id.is_none(),
        Some(name) => name == MAIN,
    }
}

impl Found<'_> {
    /// What to call it, with the tenant.
    pub fn label(&self) -> String {
        format!(
            "{}/{}",
            self.tenant.label(),
            self.tenant.name_of(self.timeline)
        )
    }

    /// The label with ids where the names occur more than once.
    fn unique_label(&self, catalog: &Catalog) -> String {
        let label = self.label();
        let same = catalog.all().filter(|f| f.label() == label).count();
        if same > 1 {
            format!("{}/{}", self.tenant.info.id, self.timeline.timeline_id)
        } else {
            label
        }
    }

    /// Id of the tenant.
    pub fn tenant_id(&self) -> TenantShardId {
        self.tenant.info.id
    }

    /// Id of the timeline.
    pub fn id(&self) -> TimelineId {
        self.timeline.timeline_id
    }

    /// The connection string of the Postgres that the history comes from, if one is known.
    pub fn source(&self) -> Option<&str> {
        let mut at = self.timeline;
        for _ in 0..self.tenant.timelines.len() {
            if let Some(source) = at.wal_source_connstr.as_deref() {
                return Some(source);
            }
            let ancestor = at.ancestor_timeline_id?;
            at = self
                .tenant
                .timelines
                .iter()
                .find(|t| t.timeline_id == ancestor)?;
        }
        None
    }
}

impl Catalog {
    /// All timelines.
    pub fn all(&self) -> impl Iterator<Item = Found<'_>> {
        let of = |tenant| move |timeline| Found { tenant, timeline };
        self.tenants
            .iter()
            .flat_map(move |tenant| tenant.timelines.iter().map(of(tenant)))
    }

    /// The tenant that a text means.
    pub fn tenant(&self, text: &str) -> Result<&Tenant, NameError> {
        if let Some(tenant) = self.tenants.iter().find(|t| t.has_id(text)) {
            return Ok(tenant);
        }
        let named: Vec<&Tenant> = self.tenants.iter().filter(|t| t.has_name(text)).collect();
        match named.as_slice() {
            [one] => Ok(one),
            [] => Err(NameError::NoTenant {
                text: text.to_owned(),
                known: self.tenants.iter().map(Tenant::label).collect(),
            }),
            several => Err(NameError::Ambiguous {
                text: text.to_owned(),
                candidates: several.iter().map(|t| t.info.id.to_string()).collect(),
            }),
        }
    }

    /// The timeline that a text means.
    pub fn branch(&self, text: &str) -> Result<Found<'_>, NameError> {
        let by_id = self.pick(|f, of_tenant, branch| {
            let id = branch.parse::<TimelineId>();
            id.is_ok_and(|id| id == f.id()) && fits(f.tenant, of_tenant)
        });
        let fitting = by_id(text);
        let fitting = if fitting.is_empty() {
            self.pick(|f, of_tenant, branch| {
                f.tenant.name_of(f.timeline) == branch && fits(f.tenant, of_tenant)
            })(text)
        } else {
            fitting
        };
        match fitting.as_slice() {
            [one] => Ok(*one),
            [] => Err(self.missing(text)),
            several => Err(NameError::Ambiguous {
                text: text.to_owned(),
                candidates: several.iter().map(|f| f.unique_label(self)).collect(),
            }),
        }
    }

    /// Timelines for which `fits` holds of the text taken as a branch, or as tenant and branch.
    fn pick<'a>(
        &'a self,
        fits: impl Fn(Found<'a>, Option<&str>, &str) -> bool,
    ) -> impl Fn(&str) -> Vec<Found<'a>> {
        move |text| {
            let parts = text.split_once('/');
            let chosen = |f: &Found<'a>| {
                fits(*f, None, text) || parts.is_some_and(|(t, b)| fits(*f, Some(t), b))
            };
            self.all().filter(chosen).collect()
        }
    }

    fn missing(&self, text: &str) -> NameError {
        let labels = |tenants: &[&Tenant]| -> Vec<String> {
            self.all()
                .filter(|f| tenants.iter().any(|t| t.info.id == f.tenant.info.id))
                .map(|f| f.unique_label(self))
                .collect()
        };
        if let Ok(tenant) = self.tenant(text) {
            return NameError::TenantGiven {
                text: text.to_owned(),
                known: labels(&[tenant]),
            };
        }
        let within: Vec<&Tenant> = match text.split_once('/') {
            Some((tenant, _)) => self
                .tenants
                .iter()
                .filter(|t| fits(t, Some(tenant)))
                .collect(),
            None => self.tenants.iter().collect(),
        };
        match text.split_once('/') {
            Some((tenant, _)) if within.is_empty() => NameError::NoTenant {
                text: tenant.to_owned(),
                known: self.tenants.iter().map(Tenant::label).collect(),
            },
            _ => NameError::NoBranch {
                text: text.to_owned(),
                known: labels(&within),
            },
        }
    }

    /// Tenants whose timelines may be meant by a text: those named before its slash, else all.
    pub fn worth_asking(tenants: &[TenantInfo], text: &str) -> Vec<TenantId> {
        let prefix = text.split_once('/').map(|(t, _)| t);
        let named = |t: &&TenantInfo| {
            let tenant = Tenant {
                info: (*t).clone(),
                timelines: Vec::new(),
            };
            prefix.is_some_and(|p| fits(&tenant, Some(p)))
        };
        let ids = |t: &TenantInfo| t.id.tenant;
        let some: Vec<TenantId> = tenants.iter().filter(named).map(ids).collect();
        if some.is_empty() {
            tenants.iter().map(ids).collect()
        } else {
            some
        }
    }
}

fn fits(tenant: &Tenant, text: Option<&str>) -> bool {
    text.is_none_or(|t| tenant.has_id(t) || tenant.has_name(t))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn id(n: u8) -> String {
        format!("{n:032x}")
    }

    fn tenant(n: u8, name: Option<&str>, timelines: Vec<TimelineInfo>) -> Tenant {
        let info = json!({
            "id": id(n), "state": {"slug": "Active"}, "attachment_status": {"slug": "attached"}, "name": name,
        });
        Tenant {
            info: serde_json::from_value(info).unwrap(),
            timelines,
        }
    }

    fn timeline(n: u8, name: Option<&str>, ancestor: Option<u8>) -> TimelineInfo {
        let info = json!({
            "tenant_id": id(0), "timeline_id": id(n), "name": name, "ancestor_timeline_id": ancestor.map(id),
            "last_record_lsn": "0/1", "disk_consistent_lsn": "0/1", "remote_consistent_lsn": "0/1",
            "remote_consistent_lsn_visible": "0/1", "initdb_lsn": "0/1", "applied_gc_cutoff_lsn": "0/1",
            "min_readable_lsn": "0/1", "latest_gc_cutoff_lsn": "0/1", "current_logical_size": 0,
            "current_logical_size_is_accurate": true, "pg_version": 17, "state": "Active",
            "walreceiver_status": "", "wal_source_connstr": (n == 10).then_some("postgres://u@h/d"),
        });
        serde_json::from_value(info).unwrap()
    }

    fn catalog() -> Catalog {
        let shop = vec![
            timeline(10, None, None),
            timeline(11, Some("test"), Some(10)),
            timeline(12, None, Some(11)),
        ];
        let blog = vec![
            timeline(20, None, None),
            timeline(21, Some("draft"), Some(20)),
        ];
        let bare = vec![timeline(30, Some("trunk"), None)];
        Catalog {
            tenants: vec![
                tenant(1, Some("shop"), shop),
                tenant(2, Some("blog"), blog),
                tenant(3, None, bare),
            ],
        }
    }

    fn found(text: &str) -> Result<u8, NameError> {
        catalog().branch(text).map(|f| f.id().0[15])
    }

    #[test]
    fn unique_names_need_no_tenant() {
        assert_eq!(found("test"), Ok(11));
        assert_eq!(found("shop/test"), Ok(11));
        assert_eq!(found("trunk"), Ok(30));
    }

    #[test]
    fn ids_do_as_well() {
        assert_eq!(found(&id(12)), Ok(12));
        assert_eq!(found(&format!("shop/{}", id(12))), Ok(12));
        assert_eq!(found(&format!("{}/test", id(1))), Ok(11));
        assert_eq!(found(&format!("{}/{}", id(1), id(11))), Ok(11));
        assert!(found(&format!("blog/{}", id(12))).is_err());
    }

    #[test]
    fn main_is_the_timeline_without_ancestor() {
        assert_eq!(found("shop/main"), Ok(10));
        assert_eq!(found("blog/main"), Ok(20));
        assert!(
            found(&format!("{}/main", id(3))).is_err(),
            "it is named trunk"
        );
    }

    #[test]
    fn a_branch_named_main_takes_the_name_over() {
        let mut c = catalog();
        c.tenants[0]
            .timelines
            .push(timeline(13, Some("main"), Some(10)));
        assert_eq!(c.branch("shop/main").unwrap().id().0[15], 13);
        assert_eq!(
            c.branch(&id(10)).unwrap().label(),
            format!("shop/{}", id(10))
        );
    }

    #[test]
    fn ambiguity_lists_the_candidates() {
        let e = found("main").unwrap_err();
        let candidates = vec!["shop/main".to_owned(), "blog/main".to_owned()];
        assert_eq!(
            e,
            NameError::Ambiguous {
                text: "main".into(),
                candidates
            }
        );
    }

    #[test]
    fn candidates_with_the_same_name_are_told_apart_by_id() {
        let mut c = catalog();
        c.tenants[1].info.name = Some("shop".into());
        let Err(NameError::Ambiguous { candidates, .. }) = c.branch("shop/main").map(|f| f.id())
        else {
            panic!("not ambiguous")
        };
        assert_eq!(
            candidates,
            [
                format!("{}/{}", id(1), id(10)),
                format!("{}/{}", id(2), id(20))
            ]
        );
        assert!(matches!(c.tenant("shop"), Err(NameError::Ambiguous { .. })));
    }

    #[test]
    fn what_is_missing_is_said_with_what_there_is() {
        let text = |t: &str| found(t).unwrap_err().to_string();
        assert!(text("nope").contains("shop/test"));
        assert!(text("shop/nope").contains("shop/test") && !text("shop/nope").contains("blog"));
        assert!(text("nope/main").contains("no tenant \"nope\""));
        assert!(text("shop").contains("is a tenant") && text("shop").contains("shop/main"));
    }

    #[test]
    fn the_source_is_inherited() {
        let c = catalog();
        assert_eq!(
            c.branch(&id(12)).unwrap().source(),
            Some("postgres://u@h/d")
        );
        assert_eq!(c.branch("trunk").unwrap().source(), None);
    }

    #[test]
    fn only_the_tenant_before_the_slash_is_asked() {
        let infos: Vec<TenantInfo> = catalog().tenants.into_iter().map(|t| t.info).collect();
        assert_eq!(Catalog::worth_asking(&infos, "blog/x").len(), 1);
        assert_eq!(Catalog::worth_asking(&infos, "x").len(), 3);
        assert_eq!(Catalog::worth_asking(&infos, "a/b").len(), 3);
    }

    #[test]
    fn names_that_would_confuse_are_unfit() {
        for bad in ["", "a/b", "a b", "-x", "a\n", &id(1), &"x".repeat(64)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        assert_eq!(check_name("release-1.2_ß"), Ok(()));
    }
}
