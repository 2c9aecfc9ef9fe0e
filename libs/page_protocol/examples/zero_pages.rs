//! A page service in which every relation has 1000 blocks of zeros: what is left when storage
//! costs nothing. For measuring the protocol, and for trying clients such as `psql`.
//!
//! `cargo run --release -p page_protocol --example zero_pages -- 127.0.0.1:64000`, and with
//! `load` as second argument one client that reads pages as fast as it can.

use page_protocol::command::{BaseBackup, FullBackup, LeaseLsn, PageStream as OpenStream};
use page_protocol::server::{
    Authentication, Config, CopyOut, Handler, PageStream, Responses, serve,
};
use page_protocol::{Answer, Error, Query, Relation, Request, Startup, Version, client};
use std::time::Instant;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use types::{Lsn, TenantId, TimelineId};

const BLOCKS: u32 = 1000;
const LOAD: usize = 200_000;

struct Zeros;

impl Handler for Zeros {
    type Session = ();
    type Stream = Zeros;

    fn authentication(&self) -> Authentication {
        Authentication::Trust
    }

    async fn authenticate(&self, _: &Startup, _: Option<&str>) -> Result<(), Error> {
        Ok(())
    }

    fn authorize(&self, (): &(), _: TenantId) -> Result<(), Error> {
        Ok(())
    }

    async fn open_stream(&self, (): &(), _: &OpenStream) -> Result<Zeros, Error> {
        Ok(Zeros)
    }

    async fn base_backup(
        &self,
        (): &(),
        _: &BaseBackup,
        out: &mut CopyOut<'_>,
    ) -> Result<(), Error> {
        out.write(&[0; 1024]).await
    }

    async fn full_backup(
        &self,
        (): &(),
        _: &FullBackup,
        out: &mut CopyOut<'_>,
    ) -> Result<(), Error> {
        out.write(&[0; 1024]).await
    }

    async fn lease_lsn(&self, (): &(), _: &LeaseLsn) -> Result<Option<u64>, Error> {
        Ok(None)
    }
}

impl PageStream for Zeros {
    async fn handle(&mut self, requests: &[Request], out: &mut Responses<'_>) -> Result<(), Error> {
        if requests.iter().all(Request::is_get_page) {
            out.pages(requests.len())?.finish(&[])?;
            return Ok(());
        }
        for request in requests {
            match request.query {
                Query::Exists(_) => out.answer(&Answer::Exists(true))?,
                Query::Nblocks(_) => out.answer(&Answer::Nblocks(BLOCKS))?,
                Query::DbSize { .. } => out.answer(&Answer::DbSize(0))?,
                _ => out.error("Read error")?,
            }
        }
        Ok(())
    }
}

async fn load(address: &str) -> Result<(), Box<dyn std::error::Error>> {
    let rel = Relation {
        spc: 1663,
        db: 5,
        rel: 16384,
        fork: 0,
    };
    let asked: Vec<_> = (0..BLOCKS).map(|block| (rel, block)).collect();
    for depth in [1, 8, 32, 128] {
        let connection = client::Connection::connect(address, &client::Options::default()).await?;
        let mut pages = connection
            .page_stream(Version::V3, TenantId::default(), TimelineId::default())
            .await?;
        let start = Instant::now();
        let mut read = 0;
        while read < LOAD {
            read += pages.pages(&asked, Lsn::MAX, Lsn(8), depth).await?.len();
        }
        let micros = start.elapsed().as_micros();
        println!("{depth} under way: {read} pages in {micros} µs");
        pages.close().await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments
        .next()
        .unwrap_or_else(|| "127.0.0.1:64000".to_owned());
    if arguments.next().as_deref() == Some("load") {
        return load(&address).await;
    }
    let listener = TcpListener::bind(&address).await?;
    loop {
        let (socket, peer): (TcpStream, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(async move {
            let stop = CancellationToken::new();
            let end = serve(socket, &Zeros, &Config::default(), &stop).await;
            println!("{peer}: {end:?}");
        });
    }
}
