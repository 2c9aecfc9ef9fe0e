//! Backups, leases, and the two forms of queries.

use super::*;
use crate::client::{self, Form};

fn base_backup(lsn: Option<Lsn>) -> BaseBackup {
    BaseBackup {
        tenant: TENANT,
        timeline: TIMELINE,
        lsn,
        gzip: false,
        replica: false,
    }
}

#[tokio::test]
async fn a_backup_arrives_whole_by_both_forms() {
    let whole = [backup_bytes(5000), backup_bytes(300_000)].concat();
    let (mut connection, running) = connect().await;
    for form in [Form::Simple, Form::Extended] {
        let mut copy = connection
            .base_backup(&base_backup(None), form)
            .await
            .unwrap();
        assert_eq!(copy.read_to_end(1 << 20).await.unwrap(), whole);
        connection.query("set x", form).await.unwrap();
    }
    connection.close().await.unwrap();
    let log = running.handler.log.lock().unwrap().join(" ");
    assert_eq!(log, "begin end 305000 begin end 305000");
}

#[tokio::test]
async fn a_failed_backup_is_not_taken_for_a_complete_one() {
    for (form, text) in [
        (Form::Simple, "disk on fire"),
        (Form::Extended, "disk on fire"),
    ] {
        let (mut connection, _running) = connect().await;
        let command = base_backup(Some(FAILS_LATER));
        let mut copy = connection.base_backup(&command, form).await.unwrap();
        assert_eq!(copy.chunk().await.unwrap().unwrap(), backup_bytes(5000));
        let Err(client::Error::Server(report)) = copy.chunk().await else {
            panic!("no error")
        };
        assert_eq!(report.message, text);
        connection.query("set x", form).await.unwrap();
    }
    for (form, text) in [
        (Form::Simple, "not found"),
        (Form::Extended, "Not found: timeline"),
    ] {
        let (mut connection, _running) = connect().await;
        let command = base_backup(Some(FAILS_AT_ONCE));
        let refused = connection.base_backup(&command, form).await.map(|_| ());
        let Err(client::Error::Server(report)) = refused else {
            panic!("no error")
        };
        assert_eq!(report.message, text);
        connection.query("set x", form).await.unwrap();
    }
}

#[tokio::test]
async fn an_empty_backup_is_a_copy_too() {
    let (mut connection, _running) = connect().await;
    let command = FullBackup {
        tenant: TENANT,
        timeline: TIMELINE,
        lsn: None,
        prev_lsn: None,
    };
    let mut copy = connection
        .full_backup(&command, Form::Simple)
        .await
        .unwrap();
    assert_eq!(copy.chunk().await.unwrap(), None);
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_backup() {
    let (io, running) = start_with(Authentication::Trust, 4096);
    let mut connection = client::Connection::handshake(io, &Options::default())
        .await
        .unwrap();
    let mut copy = connection
        .base_backup(&base_backup(None), Form::Simple)
        .await
        .unwrap();
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(*running.handler.log.lock().unwrap(), ["begin"]);
    assert_eq!(copy.read_to_end(1 << 20).await.unwrap().len(), 305_000);
    assert_eq!(running.handler.log.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_stop_during_a_backup_keeps_its_chunks_whole() {
    let (io, running) = start_with(Authentication::Trust, 4096);
    let mut connection = client::Connection::handshake(io, &Options::default())
        .await
        .unwrap();
    let mut copy = connection
        .base_backup(&base_backup(None), Form::Simple)
        .await
        .unwrap();
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    running.stop.cancel();
    let report = loop {
        match copy.chunk().await {
            Ok(Some(_)) => {}
            Err(client::Error::Server(report)) => break report,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(report.sqlstate, "57P01");
    assert_eq!(running.closed().await, Closed::ServerStopping);
}

#[tokio::test]
async fn a_lease_is_granted_refused_or_fails() {
    let (mut connection, _running) = connect().await;
    let lease = |lsn| LeaseLsn {
        tenant: types::TenantShardId::unsharded(TENANT),
        timeline: TIMELINE,
        lsn: Lsn(lsn),
    };
    let until = connection.lease_lsn(&lease(8)).await.unwrap();
    assert_eq!(until, Some(1_760_000_000_000));
    assert_eq!(connection.lease_lsn(&lease(1)).await.unwrap(), None);
    let failed = connection.lease_lsn(&lease(2)).await;
    let Err(client::Error::Server(report)) = failed else {
        panic!("no error")
    };
    let got = (report.sqlstate.as_str(), report.message.as_str());
    assert_eq!(got, ("57P01", "Shutting down"));
    assert!(connection.lease_lsn(&lease(8)).await.unwrap().is_some());
}

#[tokio::test]
async fn refused_commands_leave_the_connection_open() {
    let (mut connection, running) = connect().await;
    let other = TenantId([1; 16]);
    let commands = [
        ("show foo".to_owned(), "unsupported command show foo"),
        (String::new(), "cannot parse query: "),
        (
            format!("basebackup {other} {TIMELINE}"),
            "JWT authentication error",
        ),
    ];
    for (command, text) in commands {
        let refused = connection.query(&command, Form::Simple).await;
        let Err(client::Error::Server(report)) = refused else {
            panic!("no error")
        };
        assert_eq!(
            (report.sqlstate.as_str(), report.message.as_str()),
            ("XX000", text)
        );
    }
    let rows = connection.query("SET a = b", Form::Extended).await.unwrap();
    assert_eq!(rows.tag.as_deref(), Some("SELECT 1"));
    connection.close().await.unwrap();
    assert_eq!(running.closed().await, Closed::Terminated);
}
