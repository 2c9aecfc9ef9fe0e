//! The one walk over the header fragments of a record; every rule of the envelope is checked here.

use super::{Block, Compression, Error, HEADER_SIZE, Header, Image, MAX_BLOCK_ID};
use crate::cursor::{Cursor, Short};
use types::{BlockNumber, Fork, PgMajor, RelTag};

pub(super) const BKP_HAS_IMAGE: u8 = 0x10;
pub(super) const BKP_HAS_DATA: u8 = 0x20;
pub(super) const BKP_WILL_INIT: u8 = 0x40;
pub(super) const BKP_SAME_REL: u8 = 0x80;

/// A reference whose payload lies further behind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reference {
    pub id: u8,
    flags: u8,
    pub rel: RelTag,
    pub block: BlockNumber,
    image: Option<ImageHeader>,
    /// Where image and data begin, counted from the start of the payloads.
    pub at: usize,
    pub image_len: u16,
    pub data_len: u16,
}

impl Reference {
    /// The reference with its image and data, cut from the start of the payloads.
    #[inline]
    pub fn block<'a>(&self, mut payload: Cursor<'a>) -> Result<Block<'a>, Short> {
        payload.skip(self.at)?;
        let image = payload.take(usize::from(self.image_len))?;
        Ok(Block {
            id: self.id,
            rel: self.rel,
            block: self.block,
            will_init: self.flags & BKP_WILL_INIT != 0,
            image: self.image.map(|i| i.image(image)),
            data: payload.take(usize::from(self.data_len))?,
            has_data: self.flags & BKP_HAS_DATA != 0,
        })
    }
}

/// What a record holds besides its block references.
#[derive(Clone, Copy, Debug)]
pub(super) struct Envelope<'a> {
    pub header: Header,
    /// Images and data in the order of their references, then main data.
    pub payload: Cursor<'a>,
    pub main: &'a [u8],
    pub origin: Option<u16>,
    pub toplevel_xid: Option<u32>,
}

/// Walks over all header fragments and shows `visit` the block references. What `visit` saw
/// counts only if the walk ends well.
#[inline]
pub(super) fn walk<'a>(
    raw: &'a [u8],
    version: PgMajor,
    mut visit: impl FnMut(&Reference),
) -> Result<Envelope<'a>, Error> {
    let header = Header::parse(raw)?;
    if usize::try_from(header.total_len) != Ok(raw.len()) {
        return Err(Error::Length {
            announced: header.total_len,
            actual: raw.len(),
        });
    }
    let mut c = Cursor::new(raw, "record");
    c.skip(HEADER_SIZE)?;
    let (mut origin, mut toplevel_xid) = (None, None);
    // Payload bytes announced so far, and how many of them are main data.
    let (mut announced, mut main_len) = (0usize, 0);
    let mut least = 0;
    let mut locator: Option<[u32; 3]> = None;
    while c.left() > announced {
        let at = c.position();
        match c.u8()? {
            id @ 0..=MAX_BLOCK_ID => {
                if id < least {
                    return Err(Error::BlockOrder { at, id });
                }
                let r;
                (r, c) = reference(c, id, locator, announced, version)?;
                announced = announced
                    .saturating_add(usize::from(r.image_len))
                    .saturating_add(usize::from(r.data_len));
                least = id + 1;
                locator = Some([r.rel.spc, r.rel.db, r.rel.rel]);
                visit(&r);
            }
            252 => toplevel_xid = Some(c.u32()?),
            253 => origin = Some(c.u16()?),
            id @ (254 | 255) => {
                main_len = if id == 255 {
                    usize::from(c.u8()?)
                } else {
                    usize::try_from(c.u32()?).unwrap_or(usize::MAX)
                };
                announced = announced.saturating_add(main_len);
                break;
            }
            id => return Err(Error::FragmentId { at, id }),
        }
    }
    if c.left() != announced {
        return Err(Error::Payload {
            announced,
            left: c.left(),
        });
    }
    let mut main = c;
    main.skip(announced.saturating_sub(main_len))?;
    Ok(Envelope {
        header,
        payload: c,
        main: main.rest(),
        origin,
        toplevel_xid,
    })
}

/// Reads a block reference behind its id. The cursor goes by value: one whose address escapes
/// costs memory traffic at every field.
#[inline]
fn reference<'a>(
    mut c: Cursor<'a>,
    id: u8,
    previous: Option<[u32; 3]>,
    payload: usize,
    version: PgMajor,
) -> Result<(Reference, Cursor<'a>), Error> {
    let at = c.position();
    let rule = |rule| Error::Rule { at, id, rule };
    let [flags, l0, l1] = c.array()?;
    let fork = Fork::from_u8(flags & 0x0F).ok_or_else(|| rule("unknown fork"))?;
    let data_len = u16::from_le_bytes([l0, l1]);
    if (flags & BKP_HAS_DATA != 0) != (data_len != 0) {
        return Err(rule("data length and HAS_DATA disagree"));
    }
    let (mut image, mut image_len) = (None, 0);
    if flags & BKP_HAS_IMAGE != 0 {
        image_len = c.u16()?;
        let (header, behind) = image_header(c, image_len, version).map_err(|e| match e {
            ImageError::Short(s) => Error::Short(s),
            ImageError::Rule(r) => rule(r),
        })?;
        (image, c) = (Some(header), behind);
    }
    let [spc, db, rel] = if flags & BKP_SAME_REL != 0 {
        previous.ok_or_else(|| rule("SAME_REL without a previous reference"))?
    } else {
        [c.u32()?, c.u32()?, c.u32()?]
    };
    let rel = RelTag { spc, db, rel, fork };
    let block = c.u32()?;
    Ok((
        Reference {
            id,
            flags,
            rel,
            block,
            image,
            at: payload,
            image_len,
            data_len,
        },
        c,
    ))
}

/// An image without its bytes.
#[derive(Clone, Copy, Debug)]
struct ImageHeader {
    hole_offset: u16,
    hole_length: u16,
    compression: Compression,
    apply: bool,
}

impl ImageHeader {
    #[inline]
    fn image(self, data: &[u8]) -> Image<'_> {
        let ImageHeader {
            hole_offset,
            hole_length,
            compression,
            apply,
        } = self;
        Image {
            data,
            hole_offset,
            hole_length,
            compression,
            apply,
        }
    }
}

enum ImageError {
    Short(Short),
    Rule(&'static str),
}

impl From<Short> for ImageError {
    fn from(s: Short) -> Self {
        ImageError::Short(s)
    }
}

fn image_header(
    mut c: Cursor<'_>,
    len: u16,
    version: PgMajor,
) -> Result<(ImageHeader, Cursor<'_>), ImageError> {
    const PAGE: u16 = 8192;
    let hole_offset = c.u16()?;
    let info = c.u8()?;
    let has_hole = info & 0x01 != 0;
    let (apply, compression) = match version {
        PgMajor::V14 => (
            info & 0x04 != 0,
            if info & 0x02 != 0 {
                Compression::Pglz
            } else {
                Compression::None
            },
        ),
        _ => (
            info & 0x02 != 0,
            match info & 0x1C {
                0 => Compression::None,
                0x04 => Compression::Pglz,
                0x08 => Compression::Lz4,
                0x10 => Compression::Zstd,
                _ => return Err(ImageError::Rule("image names more than one compression")),
            },
        ),
    };
    let compressed = compression != Compression::None;
    if len > PAGE {
        return Err(ImageError::Rule("image longer than a page"));
    }
    let hole_length = match (compressed, has_hole) {
        (true, true) => c.u16()?,
        (true, false) => 0,
        (false, _) => PAGE - len,
    };
    // A zero-length uncompressed image is a page that is all hole (written by Neon computes only).
    let all_hole = !compressed && len == 0;
    if has_hole && !all_hole && (hole_offset == 0 || hole_length == 0 || len == PAGE) {
        return Err(ImageError::Rule("hole flag set but the hole is empty"));
    }
    if !has_hole && !all_hole && (hole_offset != 0 || hole_length != 0) {
        return Err(ImageError::Rule("hole without the hole flag"));
    }
    if compressed && len == PAGE {
        return Err(ImageError::Rule(
            "compressed image is not smaller than a page",
        ));
    }
    if u32::from(hole_offset) + u32::from(hole_length) > u32::from(PAGE) {
        return Err(ImageError::Rule("hole reaches past the page"));
    }
    Ok((
        ImageHeader {
            hole_offset,
            hole_length,
            compression,
            apply,
        },
        c,
    ))
}
