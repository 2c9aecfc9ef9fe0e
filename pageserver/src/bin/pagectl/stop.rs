//! `pagectl stop`.

use crate::arguments::Stop;
use crate::local::{self, Account, Home};
use crate::output;
use crate::session::Session;
use crate::start;
use anyhow::Result;
use serde_json::json;

/// Stops the local Postgres of a branch.
pub async fn run(session: &Session, arguments: &Stop) -> Result<()> {
    let home = Home::open()?;
    let account = Account::for_servers()?;
    // What was started can be stopped also when the pageserver is gone or the branch was deleted.
    let known = home.find(&arguments.branch)?;
    let (record, programs) = match known {
        Some(found) => found,
        None => {
            let catalog = session.catalog_for(&arguments.branch).await?;
            let found = catalog.branch(&arguments.branch)?;
            start::known(&home, &found)?
        }
    };
    let _alone = home.lock(record.timeline)?;
    let ran = local::is_running(&record, &programs, account)?;
    if ran {
        local::stop(&record, &programs, account)?;
    }
    if arguments.remove {
        home.forget(&record)?;
    }
    if session.json {
        return Ok(output::json(&json!({
            "timeline_id": record.timeline, "was_running": ran, "removed": arguments.remove,
        }))?);
    }
    let label = output::plain(&record.branch);
    let state = if ran { "stopped" } else { "was not running" };
    let data = if arguments.remove {
        "its data is deleted".to_owned()
    } else {
        format!(
            "its data stays in {} (delete with --remove)",
            record.directory.display()
        )
    };
    Ok(output::line(format!("{label} {state}; {data}"))?)
}
