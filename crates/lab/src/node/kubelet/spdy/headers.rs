//! Header blocks: names and values, compressed with one zlib stream per direction.
//!
//! A block is a count and then names and values, each after its length of four bytes (draft 3.1,
//! section 2.6.10). Each block ends with a flush, so that it can be read on its own; what came in
//! earlier blocks is referred to by later ones. After an error a direction cannot be read any more.

use bytes::{Buf, BufMut};
use flate2::{
    Compress, CompressError, Compression, Decompress, DecompressError, FlushCompress,
    FlushDecompress, Status,
};

use crate::node::kubelet::spdy::dictionary::DICTIONARY;

/// The most that a block may hold after decompression, in bytes.
pub(crate) const LARGEST_BLOCK: usize = 64 << 10;

/// How much room is made at once.
const ROOM: usize = 4 << 10;

/// Names, in lower case, with their values.
pub(crate) type Headers = Vec<(String, String)>;

/// Why a block is not understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("decompress headers")]
    Inflate(#[from] DecompressError),
    #[error("compress headers")]
    Deflate(#[from] CompressError),
    #[error("headers take more than {LARGEST_BLOCK} bytes")]
    TooLarge,
    #[error("headers are malformed: {0}")]
    Malformed(&'static str),
}

/// Reads the blocks of one direction, in their order.
#[derive(Debug)]
pub(crate) struct HeaderReader(Decompress);

impl HeaderReader {
    pub(crate) fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub(crate) fn read(&mut self, block: &[u8]) -> Result<Headers, HeaderError> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, HeaderError> {
        let mut out = Vec::with_capacity(ROOM);
        loop {
            let (taken, made) = (self.0.total_in(), out.len());
            let status = self.0.decompress_vec(block, &mut out, FlushDecompress::Sync);
            let taken = usize::try_from(self.0.total_in() - taken).unwrap_or(usize::MAX);
            block = block.get(taken..).unwrap_or_default();
            match status {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&DICTIONARY)?;
                    continue;
                }
                Err(error) => return Err(error.into()),
                Ok(Status::StreamEnd) => return Err(HeaderError::Malformed("they have an end")),
                Ok(Status::Ok | Status::BufError) => (),
            }
            if out.len() > LARGEST_BLOCK {
                return Err(HeaderError::TooLarge);
            }
            if out.len() == out.capacity() {
                out.reserve(ROOM);
            } else if block.is_empty() {
                return Ok(out);
            } else if taken == 0 && out.len() == made {
                return Err(HeaderError::Malformed("they cannot be decompressed"));
            }
        }
    }
}

fn parse(mut block: &[u8]) -> Result<Headers, HeaderError> {
    let short = || HeaderError::Malformed("they end early");
    let mut headers = Headers::new();
    for _ in 0..block.try_get_u32().map_err(|_| short())? {
        let mut next = || {
            let length = usize::try_from(block.try_get_u32().map_err(|_| short())?);
            let (text, rest) =
                length.ok().and_then(|length| block.split_at_checked(length)).ok_or_else(short)?;
            block = rest;
            String::from_utf8(text.to_vec()).map_err(|_| HeaderError::Malformed("not UTF-8"))
        };
        let (name, value) = (next()?, next()?);
        if name.is_empty() || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(HeaderError::Malformed("a name is empty or not in lower case"));
        }
        if headers.iter().any(|(known, _)| *known == name) {
            return Err(HeaderError::Malformed("a name comes twice"));
        }
        headers.push((name, value));
    }
    if block.is_empty() { Ok(headers) } else { Err(HeaderError::Malformed("more than they count")) }
}

/// Writes the blocks of one direction, in their order.
#[derive(Debug)]
pub(crate) struct HeaderWriter {
    deflate: Compress,
    begun: bool,
}

impl HeaderWriter {
    pub(crate) fn new() -> Self {
        Self { deflate: Compress::new(Compression::fast(), true), begun: false }
    }

    pub(crate) fn write(&mut self, headers: &Headers) -> Result<Vec<u8>, HeaderError> {
        if !self.begun {
            self.deflate.set_dictionary(&DICTIONARY)?;
            self.begun = true;
        }
        let mut block = Vec::new();
        let length = |length: usize| u32::try_from(length).map_err(|_| HeaderError::TooLarge);
        block.put_u32(length(headers.len())?);
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.put_u32(length(text.len())?);
            block.put_slice(text.as_bytes());
        }
        if block.len() > LARGEST_BLOCK {
            return Err(HeaderError::TooLarge);
        }
        let (mut block, mut out) = (block.as_slice(), Vec::with_capacity(ROOM));
        loop {
            let taken = self.deflate.total_in();
            self.deflate.compress_vec(block, &mut out, FlushCompress::Sync)?;
            let taken = usize::try_from(self.deflate.total_in() - taken).unwrap_or(usize::MAX);
            block = block.get(taken..).unwrap_or_default();
            // Room that is left says that the flush is complete.
            if out.len() < out.capacity() && block.is_empty() {
                return Ok(out);
            }
            out.reserve(ROOM);
        }
    }
}
