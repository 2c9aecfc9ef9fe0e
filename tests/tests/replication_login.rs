//! The replication client logs in with every method, and explains why it may not.

use anyhow::{Context as _, Result, ensure};
use replication::preflight::{self, Check};
use replication::{Connection, Conninfo, Error, Mode, commands};
use std::fs;
use tests::postgres::{Cluster, Install, Options, for_each_major};
use types::PgMajor;

async fn try_login(url: &str, mode: Mode) -> Result<Connection, Error> {
    let conninfo: Conninfo = url.parse().expect("a valid connection string");
    Connection::connect(&conninfo, mode).await
}

#[tokio::test]
async fn every_method_of_authentication_works() -> Result<()> {
    for_each_major(async |major| {
        let mut options = Options::default();
        for (role, method) in [("s", "scram-sha-256"), ("m", "md5"), ("c", "password"), ("plain", "trust")] {
            options = options
                .hba(&format!("host replication {role} 127.0.0.1/32 {method}"))
                .hba(&format!("host all {role} 127.0.0.1/32 {method}"));
        }
        let options = options.hba("host replication kept_out 127.0.0.1/32 reject");
        let mut cluster = Cluster::init(&Install::find(major)?, &options)?;
        cluster.start()?;
        cluster
            .psql(
                "CREATE ROLE s LOGIN REPLICATION PASSWORD 'p@:/w'; CREATE ROLE plain LOGIN; \
                 CREATE ROLE kept_out LOGIN REPLICATION; \
                 SET password_encryption = 'md5'; CREATE ROLE m LOGIN REPLICATION PASSWORD 'p@:/w'; \
                 CREATE ROLE c LOGIN REPLICATION PASSWORD 'p@:/w'",
            )
            .await?;
        let port = cluster.port();
        for role in ["s", "m", "c"] {
            for mode in [Mode::Physical, Mode::Database, Mode::Sql] {
                let url = format!("postgres://{role}:p%40%3A%2Fw@127.0.0.1:{port}/postgres");
                let mut c = try_login(&url, mode).await.with_context(|| format!("{role} {mode:?}"))?;
                ensure!(c.major()? == major);
                ensure!(commands::show(&mut c, "wal_level").await? == "replica");
                c.close().await?;
            }
            let wrong = try_login(&format!("postgres://{role}:nope@127.0.0.1:{port}/postgres"), Mode::Physical).await;
            let error = wrong.err().context("a wrong password was accepted")?;
            ensure!(error.is_authentication() && error.sqlstate() == Some("28P01"), "{error}");
            let missing = try_login(&format!("postgres://{role}@127.0.0.1:{port}/postgres"), Mode::Physical).await;
            ensure!(matches!(missing, Err(Error::Authentication(_))));
        }

        let refused = try_login(&format!("postgres://plain@127.0.0.1:{port}/postgres"), Mode::Physical).await;
        let error = refused.err().context("a role without REPLICATION was let in")?;
        let finding = preflight::explain(&error, "plain").with_context(|| error.to_string())?;
        ensure!(finding.check == Check::RolePrivilege && finding.remedy.contains("ALTER ROLE"), "{finding}");

        let refused = try_login(&format!("postgres://kept_out@127.0.0.1:{port}/postgres"), Mode::Physical).await;
        let error = refused.err().context("pg_hba.conf was ignored")?;
        let finding = preflight::explain(&error, "kept_out").with_context(|| error.to_string())?;
        ensure!(finding.check == Check::HostBasedAuthentication, "{finding}");

        let socket = cluster.socket_directory().to_string_lossy().replace('/', "%2F");
        let mut c = try_login(&format!("postgres://postgres@{socket}:{port}/postgres"), Mode::Physical).await?;
        commands::identify_system(&mut c).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_host_that_does_not_answer_is_passed_over() -> Result<()> {
    let mut cluster = Cluster::init(&Install::find(PgMajor::V17)?, &Options::default())?;
    cluster.start()?;
    let port = cluster.port();
    let mut c = try_login(
        &format!("postgres://postgres@127.0.0.1:1,127.0.0.1:{port}/postgres"),
        Mode::Physical,
    )
    .await?;
    ensure!(c.host().port == port);
    ensure!(commands::identify_system(&mut c).await?.timeline == 1);
    let error = try_login("postgres://postgres@127.0.0.1:1/postgres", Mode::Physical)
        .await
        .err();
    ensure!(error.context("connected to nothing")?.is_transient());
    Ok(())
}

#[tokio::test]
async fn encryption_is_as_strict_as_sslmode_says() -> Result<()> {
    let root_key = rcgen::KeyPair::generate()?;
    let mut root = rcgen::CertificateParams::new(Vec::new())?;
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = rcgen::CertifiedIssuer::self_signed(root, root_key)?;
    let key = rcgen::KeyPair::generate()?;
    let certificate =
        rcgen::CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&key, &root)?;
    let stranger = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;

    let directory = tempfile::tempdir()?;
    let ca = directory.path().join("ca.pem");
    let other = directory.path().join("other.pem");
    fs::write(&ca, root.pem())?;
    fs::write(&other, stranger.cert.pem())?;

    for major in [PgMajor::V14, PgMajor::V18] {
        let options = Options::default().hba("hostssl replication all 127.0.0.1/32 scram-sha-256");
        let mut cluster = Cluster::init(&Install::find(major)?, &options)?;
        cluster.start()?;
        cluster
            .psql("CREATE ROLE s LOGIN REPLICATION PASSWORD 'secret'")
            .await?;
        let port = cluster.port();
        let url = |host: &str, rest: &str| {
            format!("postgres://s:secret@{host}:{port}/postgres?sslmode={rest}")
        };
        let refused = try_login(&url("localhost", "require"), Mode::Physical).await;
        ensure!(
            matches!(refused, Err(Error::Tls { .. })),
            "a server without TLS passed for one"
        );

        cluster.write("server.crt", &certificate.pem())?;
        cluster.write("server.key", &key.serialize_pem())?;
        fs::set_permissions(
            cluster.data().join("server.key"),
            std::os::unix::fs::PermissionsExt::from_mode(0o600),
        )?;
        cluster.configure(&[("ssl", "on")])?;
        cluster.restart()?;

        let (ca, other) = (ca.display(), other.display());
        let accepted = [
            url("localhost", "prefer"),
            url("localhost", "require"),
            url("127.0.0.1", &format!("verify-ca&sslrootcert={ca}")),
            url("localhost", &format!("verify-full&sslrootcert={ca}")),
        ];
        for url in accepted {
            let mut c = try_login(&url, Mode::Physical)
                .await
                .with_context(|| url.clone())?;
            commands::identify_system(&mut c).await?;
        }
        let refused = [
            url("127.0.0.1", &format!("verify-full&sslrootcert={ca}")),
            url("localhost", &format!("verify-ca&sslrootcert={other}")),
            url("localhost", &format!("require&sslrootcert={other}")),
            url("localhost", "verify-full"),
        ];
        for url in refused {
            let result = try_login(&url, Mode::Physical).await;
            ensure!(
                matches!(result, Err(Error::Tls { .. })),
                "{url}: {result:?}"
            );
        }
    }
    Ok(())
}
