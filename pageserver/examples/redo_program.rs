//! A program for the setting `wal_redo_program`: what an extension with a resource manager of its
//! own would ship. Its manager, id 128, has one record: main data is an offset u16 LE and bytes that
//! go there on the page of block reference 0.
//!
//! Messages come on standard input: a type byte, a length u32 BE that counts itself and what
//! follows. `B` forget the page, begin with this one; `P` its contents so far; `A` end LSN u64 BE and
//! a record; `G` answer with the page. B, P and G start with fork u8, tablespace, database, relation
//! and block, u32 BE each. See `docs/format/redo.md`, "Redo program".

use anyhow::{Context as _, Result, bail, ensure};
use pg_wal::View;
use std::io::{ErrorKind, Read, Write};
use types::{Fork, Lsn, PAGE_SIZE, PgMajor, RelTag};

const MANAGER: u8 = 128;
const TAG: usize = 17;

fn main() -> Result<()> {
    let major: u32 = std::env::var("PAGESERVER_PG_MAJOR")?.parse()?;
    let version = PgMajor::try_from(major)?;
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    let mut wanted = [0; TAG];
    let mut page = [0; PAGE_SIZE];
    loop {
        let mut head = [0; 5];
        match input.read_exact(&mut head) {
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        let [kind, len @ ..] = head;
        let rest = u64::from(u32::from_be_bytes(len)).checked_sub(4);
        let rest = rest.context("a length below 4")?;
        let mut body = Vec::new();
        (&mut input).take(rest).read_to_end(&mut body)?;
        match kind {
            b'B' => {
                wanted = *body.first_chunk().context("a short tag")?;
                page = [0; PAGE_SIZE];
            }
            b'P' => {
                let (tag, content) = body.split_first_chunk().context("a short tag")?;
                ensure!(*tag == wanted, "another page was pushed");
                page = content.try_into()?;
            }
            b'A' => {
                let (lsn, rec) = body.split_first_chunk().context("a record without LSN")?;
                let lsn = Lsn(u64::from_be_bytes(*lsn));
                apply(&mut page, &wanted, lsn, rec, version)?;
            }
            b'G' => {
                output.write_all(&page)?;
                output.flush()?;
            }
            other => bail!("message {other:#04X}"),
        }
    }
}

fn apply(
    page: &mut [u8; PAGE_SIZE],
    wanted: &[u8; TAG],
    lsn: Lsn,
    rec: &[u8],
    version: PgMajor,
) -> Result<()> {
    let [fork, numbers @ ..] = wanted;
    let numbers = numbers.as_chunks::<4>().0;
    let mut numbers = numbers.iter().map(|n| u32::from_be_bytes(*n));
    let mut next = || numbers.next().context("a short tag");
    let fork = Fork::from_u8(*fork).context("no such fork")?;
    let (spc, db, rel, block) = (next()?, next()?, next()?, next()?);
    let rel = RelTag { spc, db, rel, fork };
    let found = View::find(rec, version, |id, r, b| id == 0 && r == rel && b == block)?;
    let view = found.context("the record is not about the page")?;
    ensure!(view.header.rmid == MANAGER, "a record of another manager");
    if view.block.will_init {
        *page = [0; PAGE_SIZE];
        // pd_lower, pd_upper, pd_special, size and version of an empty page.
        let header = [24u16, 8192, 8192, 0x2004].map(u16::to_le_bytes);
        let to = page.iter_mut().skip(12);
        to.zip(header.into_iter().flatten())
            .for_each(|(to, from)| *to = from);
    } else if pg_format::page::lsn(page) >= lsn {
        return Ok(());
    }
    let (at, bytes) = view.main.split_first_chunk().context("no offset")?;
    let at = usize::from(u16::from_le_bytes(*at));
    let place = page.get_mut(at..at + bytes.len());
    place.context("outside the page")?.copy_from_slice(bytes);
    pg_format::page::set_lsn(page, lsn);
    Ok(())
}
