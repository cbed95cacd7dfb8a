//! The frames of SPDY/3.1 and their wire format (draft 3.1, section 2.2 and 2.6).
//!
//! The reader keeps no frame of data in memory: it hands on what has come, in chunks. Control
//! frames are read whole and are limited to [`LARGEST_CONTROL`].

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use crate::node::kubelet::spdy::headers::{HeaderError, HeaderReader, HeaderWriter, Headers};

/// The largest payload of a control frame that is read, in bytes.
pub(crate) const LARGEST_CONTROL: usize = 16 << 10;

/// The most data that is handed on at once.
pub(crate) const CHUNK: usize = 16 << 10;

/// The largest payload that the format can express.
const LARGEST: usize = (1 << 24) - 1;

const HEAD: usize = 8;
const VERSION: u16 = 3;
const CONTROL: u32 = 1 << 31;
const FIN: u8 = 1;
const UNIDIRECTIONAL: u8 = 2;

/// One frame; of a frame of data perhaps a part, the last of which has its `fin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    SynStream {
        id: u32,
        fin: bool,
        unidirectional: bool,
        headers: Headers,
    },
    SynReply {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    RstStream {
        id: u32,
        status: u32,
    },
    /// Identifiers with their flags in the upper byte, and values.
    Settings(Vec<(u32, u32)>),
    Ping(u32),
    GoAway {
        last: u32,
        status: u32,
    },
    Headers {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    WindowUpdate {
        id: u32,
        delta: u32,
    },
    Data {
        id: u32,
        fin: bool,
        bytes: Bytes,
    },
}

/// Why frames cannot be read or written any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Headers(#[from] HeaderError),
    #[error("a control frame of {0} bytes is over the limit of {LARGEST_CONTROL}")]
    TooLarge(usize),
    #[error("a frame is malformed: {0}")]
    Malformed(&'static str),
}

/// What is left of a frame whose head has been read.
#[derive(Clone, Copy, Debug)]
enum Rest {
    Nothing,
    Data {
        id: u32,
        fin: bool,
        left: usize,
    },
    /// A frame of a type that nobody knows, which the protocol says to ignore.
    Ignored {
        left: usize,
    },
}

/// Reads frames.
#[derive(Debug)]
pub(crate) struct FrameReader {
    headers: HeaderReader,
    rest: Rest,
}

impl FrameReader {
    pub(crate) fn new() -> Self {
        Self { headers: HeaderReader::new(), rest: Rest::Nothing }
    }

    /// The next part of the frame whose head has been read.
    fn rest(&mut self, buffer: &mut BytesMut) -> Option<Frame> {
        match self.rest {
            Rest::Data { id, fin, left } if !buffer.is_empty() => {
                let count = left.min(buffer.len()).min(CHUNK);
                // Copied, because a slice would keep the whole buffer in memory.
                let bytes = Bytes::copy_from_slice(&buffer.split_to(count));
                let left = left - count;
                self.rest = if left == 0 { Rest::Nothing } else { Rest::Data { id, fin, left } };
                Some(Frame::Data { id, fin: fin && left == 0, bytes })
            }
            Rest::Ignored { left } => {
                let count = left.min(buffer.len());
                buffer.advance(count);
                let left = left - count;
                self.rest = if left == 0 { Rest::Nothing } else { Rest::Ignored { left } };
                None
            }
            _ => None,
        }
    }

    fn data(&mut self, id: u32, fin: bool, length: usize) -> Result<Option<Frame>, FrameError> {
        if id == 0 {
            return Err(FrameError::Malformed("data of stream 0"));
        }
        if length == 0 {
            return Ok(Some(Frame::Data { id, fin, bytes: Bytes::new() }));
        }
        self.rest = Rest::Data { id, fin, left: length };
        Ok(None)
    }

    fn control(&mut self, kind: u16, flags: u8, mut body: &[u8]) -> Result<Frame, FrameError> {
        let fin = flags & FIN != 0;
        let mut number = || body.try_get_u32().map_err(|_| FrameError::Malformed("too short"));
        let stream = |id: u32| match id & !CONTROL {
            0 => Err(FrameError::Malformed("a control frame of stream 0")),
            id => Ok(id),
        };
        let frame = match kind {
            1 => {
                let id = stream(number()?)?;
                let _associated = number()?;
                // Priority and slot, which Kubernetes does not use.
                body.try_get_u16().map_err(|_| FrameError::Malformed("too short"))?;
                let headers = self.headers.read(body)?;
                let unidirectional = flags & UNIDIRECTIONAL != 0;
                return Ok(Frame::SynStream { id, fin, unidirectional, headers });
            }
            2 => {
                let id = stream(number()?)?;
                return Ok(Frame::SynReply { id, fin, headers: self.headers.read(body)? });
            }
            8 => {
                let id = stream(number()?)?;
                return Ok(Frame::Headers { id, fin, headers: self.headers.read(body)? });
            }
            3 => Frame::RstStream { id: stream(number()?)?, status: number()? },
            4 => {
                let count = number()?;
                let mut all = Vec::new();
                for _ in 0..count {
                    all.push((number()?, number()?));
                }
                Frame::Settings(all)
            }
            6 => Frame::Ping(number()?),
            7 => Frame::GoAway { last: number()? & !CONTROL, status: number()? },
            _ => Frame::WindowUpdate { id: number()? & !CONTROL, delta: number()? & !CONTROL },
        };
        if body.is_empty() { Ok(frame) } else { Err(FrameError::Malformed("too long")) }
    }
}

impl Decoder for FrameReader {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(frame) = self.rest(buffer) {
                return Ok(Some(frame));
            }
            if !matches!(self.rest, Rest::Nothing) {
                return Ok(None);
            }
            let Some(mut head) = buffer.get(..HEAD) else { return Ok(None) };
            let (first, second) = (head.get_u32(), head.get_u32());
            let [flags, ..] = second.to_be_bytes();
            let length = usize::try_from(second & 0x00ff_ffff)
                .map_err(|_| FrameError::Malformed("its length"))?;
            if first & CONTROL == 0 {
                buffer.advance(HEAD);
                if let Some(frame) = self.data(first, flags & FIN != 0, length)? {
                    return Ok(Some(frame));
                }
                continue;
            }
            let [version_high, version_low, kind_high, kind_low] = first.to_be_bytes();
            let kind = u16::from_be_bytes([kind_high, kind_low]);
            if u16::from_be_bytes([version_high & 0x7f, version_low]) != VERSION {
                return Err(FrameError::Malformed("not of version 3"));
            }
            if !matches!(kind, 1..=4 | 6..=9) {
                buffer.advance(HEAD);
                if length > 0 {
                    self.rest = Rest::Ignored { left: length };
                }
                continue;
            }
            if length > LARGEST_CONTROL {
                return Err(FrameError::TooLarge(length));
            }
            if buffer.len() < HEAD + length {
                buffer.reserve(HEAD + length - buffer.len());
                return Ok(None);
            }
            let frame = buffer.split_to(HEAD + length);
            return self.control(kind, flags, frame.get(HEAD..).unwrap_or_default()).map(Some);
        }
    }
}

/// Writes frames.
#[derive(Debug)]
pub(crate) struct FrameWriter {
    headers: HeaderWriter,
}

impl FrameWriter {
    pub(crate) fn new() -> Self {
        Self { headers: HeaderWriter::new() }
    }
}

impl Encoder<Frame> for FrameWriter {
    type Error = FrameError;

    fn encode(&mut self, frame: Frame, out: &mut BytesMut) -> Result<(), FrameError> {
        let mut body = BytesMut::new();
        let numbers = |body: &mut BytesMut, all: &[u32]| {
            all.iter().for_each(|number| body.put_u32(*number));
        };
        let (kind, flags) = match frame {
            Frame::Data { id, fin, bytes } => {
                out.put_u32(id & !CONTROL);
                out.put_u32(flags_and_length(u8::from(fin), bytes.len())?);
                out.put_slice(&bytes);
                return Ok(());
            }
            Frame::SynStream { id, fin, unidirectional, headers } => {
                numbers(&mut body, &[id, 0]);
                body.put_u16(0);
                body.put_slice(&self.headers.write(&headers)?);
                (1, u8::from(fin) | if unidirectional { UNIDIRECTIONAL } else { 0 })
            }
            Frame::SynReply { id, fin, headers } => {
                body.put_u32(id);
                body.put_slice(&self.headers.write(&headers)?);
                (2, u8::from(fin))
            }
            Frame::Headers { id, fin, headers } => {
                body.put_u32(id);
                body.put_slice(&self.headers.write(&headers)?);
                (8, u8::from(fin))
            }
            Frame::RstStream { id, status } => {
                numbers(&mut body, &[id, status]);
                (3, 0)
            }
            Frame::Settings(all) => {
                let count = u32::try_from(all.len());
                body.put_u32(count.map_err(|_| FrameError::Malformed("too many settings"))?);
                all.into_iter().for_each(|(key, value)| numbers(&mut body, &[key, value]));
                (4, 0)
            }
            Frame::Ping(id) => {
                body.put_u32(id);
                (6, 0)
            }
            Frame::GoAway { last, status } => {
                numbers(&mut body, &[last, status]);
                (7, 0)
            }
            Frame::WindowUpdate { id, delta } => {
                numbers(&mut body, &[id, delta]);
                (9, 0)
            }
        };
        out.put_u32(CONTROL | u32::from(VERSION) << 16 | kind);
        out.put_u32(flags_and_length(flags, body.len())?);
        out.put_slice(&body);
        Ok(())
    }
}

fn flags_and_length(flags: u8, length: usize) -> Result<u32, FrameError> {
    let fits = u32::try_from(length).ok().filter(|_| length <= LARGEST);
    let length = fits.ok_or(FrameError::Malformed("longer than a frame can be"))?;
    Ok(u32::from(flags) << 24 | length)
}
