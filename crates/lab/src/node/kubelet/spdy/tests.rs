//! The codec and a connection's server side, against frames that a client sends.

use std::io::Write as _;

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use proptest::prelude::*;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio_util::codec::{Decoder, Encoder, Framed};
use tombolo_runtime::shutdown::Shutdown;

use super::connection::{self, ALL, Connection, MOST_STREAMS};
use super::dictionary::DICTIONARY;
use super::frame::{CHUNK, Frame, FrameError, FrameReader, FrameWriter, LARGEST_CONTROL};
use super::headers::{HeaderError, HeaderReader, HeaderWriter, Headers, LARGEST_BLOCK};

pub(crate) fn headers(all: &[(&str, &str)]) -> Headers {
    all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Frames with the parts of each frame of data joined.
fn joined(frames: Vec<Frame>) -> Vec<Frame> {
    let mut all: Vec<Frame> = Vec::new();
    let mut open = false;
    for frame in frames {
        match (all.last_mut(), &frame) {
            (
                Some(Frame::Data { id, fin, bytes }),
                Frame::Data { id: next, fin: last, bytes: more },
            ) if open && id == next => {
                *bytes = [bytes.clone(), more.clone()].concat().into();
                *fin = *last;
                open = !last;
            }
            _ => {
                open = matches!(frame, Frame::Data { fin: false, .. });
                all.push(frame);
            }
        }
    }
    all
}

fn read(mut bytes: BytesMut) -> Result<Vec<Frame>, FrameError> {
    let mut reader = FrameReader::new();
    let mut frames = Vec::new();
    while let Some(frame) = reader.decode(&mut bytes)? {
        frames.push(frame);
    }
    Ok(frames)
}

/// The value that zlib gives the protocol's dictionary, and every other end finds in our streams.
#[test]
fn the_dictionary_is_the_protocols() {
    let (low, high) = DICTIONARY.iter().fold((1_u32, 0_u32), |(low, high), byte| {
        let low = (low + u32::from(*byte)) % 65521;
        (low, (high + low) % 65521)
    });
    assert_eq!((DICTIONARY.len(), high << 16 | low), (1423, 0xe3c6_a7c2));
    let block = HeaderWriter::new().write(&headers(&[("a", "b")])).unwrap();
    assert_eq!(block[2..6], 0xe3c6_a7c2_u32.to_be_bytes());
}

/// Bytes as the draft lays them out.
#[test]
fn a_frame_has_its_place_for_everything() {
    let mut out = BytesMut::new();
    let mut writer = FrameWriter::new();
    writer.encode(Frame::RstStream { id: 5, status: 3 }, &mut out).unwrap();
    writer.encode(Frame::Ping(7), &mut out).unwrap();
    let data = Frame::Data { id: 3, fin: true, bytes: Bytes::from_static(b"hi") };
    writer.encode(data.clone(), &mut out).unwrap();
    let wire = [
        [0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 3].as_slice(),
        &[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7],
        &[0, 0, 0, 3, 1, 0, 0, 2, b'h', b'i'],
    ];
    assert_eq!(out, wire.concat());
    let want = vec![Frame::RstStream { id: 5, status: 3 }, Frame::Ping(7), data];
    assert_eq!(read(out).unwrap(), want);
}

#[test]
fn later_blocks_build_on_earlier_ones() {
    let (mut writer, mut reader) = (HeaderWriter::new(), HeaderReader::new());
    let all = headers(&[("streamtype", "error"), ("port", "8080"), ("requestid", "0")]);
    let first = writer.write(&all).unwrap();
    let second = writer.write(&all).unwrap();
    assert!(second.len() < first.len() / 2, "{} {}", first.len(), second.len());
    assert_eq!(reader.read(&first).unwrap(), all);
    assert_eq!(reader.read(&second).unwrap(), all);
}

/// A few bytes that become megabytes.
#[test]
fn a_bomb_of_headers_is_refused() {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&vec![0; 8 << 20]).unwrap();
    let bomb = encoder.finish().unwrap();
    assert!(bomb.len() < LARGEST_CONTROL);
    let refused = HeaderReader::new().read(&bomb);
    assert!(matches!(refused, Err(HeaderError::TooLarge)), "{refused:?}");
    let huge = headers(&[("a", &"b".repeat(LARGEST_BLOCK))]);
    assert!(matches!(HeaderWriter::new().write(&huge), Err(HeaderError::TooLarge)));
}

#[test]
fn headers_that_make_no_sense_are_refused() {
    for bad in [
        headers(&[("Upper", "a")]),
        headers(&[("", "a")]),
        headers(&[("twice", "a"), ("twice", "b")]),
    ] {
        let block = HeaderWriter::new().write(&bad).unwrap();
        let refused = HeaderReader::new().read(&block);
        assert!(matches!(refused, Err(HeaderError::Malformed(_))), "{bad:?} {refused:?}");
    }
}

#[test]
fn frames_over_the_limits_are_refused_and_unknown_ones_left_out() {
    let mut wire = BytesMut::from([0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff].as_slice());
    assert!(matches!(FrameReader::new().decode(&mut wire), Err(FrameError::TooLarge(0x00ff_ffff))));
    let mut settings = BytesMut::from([0x80, 3, 0, 4, 0, 0, 0, 4].as_slice());
    settings.extend(u32::MAX.to_be_bytes());
    assert!(matches!(read(settings), Err(FrameError::Malformed(_))));
    let version_2 = BytesMut::from([0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1].as_slice());
    assert!(matches!(read(version_2), Err(FrameError::Malformed(_))));
    let unknown = [0x80, 3, 0, 99, 0, 0, 0, 3, 1, 2, 3, 0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
    assert_eq!(read(BytesMut::from(unknown.as_slice())).unwrap(), [Frame::Ping(1)]);
}

/// A frame of 16 MiB of which a little has come is handed on, not kept.
#[test]
fn data_is_handed_on_as_it_comes() {
    let mut reader = FrameReader::new();
    let mut wire = BytesMut::from([0, 0, 0, 1, 1, 0xff, 0xff, 0xff].as_slice());
    assert_eq!(reader.decode(&mut wire).unwrap(), None);
    wire.extend(vec![7; CHUNK + 1]);
    let lengths: Vec<_> = std::iter::from_fn(|| reader.decode(&mut wire).unwrap())
        .map(|frame| match frame {
            Frame::Data { id: 1, fin: false, bytes } => bytes.len(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(lengths, [CHUNK, 1]);
}

fn any_headers() -> impl Strategy<Value = Headers> {
    proptest::collection::btree_map("[a-z0-9-]{1,20}", "\\PC{0,40}", 0..8)
        .prop_map(|all| all.into_iter().collect())
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let id = 1..=0x7fff_ffff_u32;
    prop_oneof![
        (id.clone(), any::<bool>(), any::<bool>(), any_headers()).prop_map(
            |(id, fin, unidirectional, headers)| Frame::SynStream {
                id,
                fin,
                unidirectional,
                headers
            }
        ),
        (id.clone(), any::<bool>(), any_headers()).prop_map(|(id, fin, headers)| Frame::SynReply {
            id,
            fin,
            headers
        }),
        (id.clone(), any::<bool>(), any_headers()).prop_map(|(id, fin, headers)| Frame::Headers {
            id,
            fin,
            headers
        }),
        (id.clone(), any::<u32>()).prop_map(|(id, status)| Frame::RstStream { id, status }),
        proptest::collection::vec(any::<(u32, u32)>(), 0..10).prop_map(Frame::Settings),
        any::<u32>().prop_map(Frame::Ping),
        (0..=0x7fff_ffff_u32, any::<u32>())
            .prop_map(|(last, status)| Frame::GoAway { last, status }),
        (0..=0x7fff_ffff_u32, 0..=0x7fff_ffff_u32)
            .prop_map(|(id, delta)| Frame::WindowUpdate { id, delta }),
        // With its end, so that its parts can be told from the next frame's.
        (id, proptest::collection::vec(any::<u8>(), 0..40_000))
            .prop_map(|(id, bytes)| Frame::Data { id, fin: true, bytes: bytes.into() }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn frames_survive_the_wire_however_it_is_cut(
        frames in proptest::collection::vec(any_frame(), 0..12),
        cuts in proptest::collection::vec(1_usize..5000, 1..20),
    ) {
        let mut wire = BytesMut::new();
        let mut writer = FrameWriter::new();
        for frame in &frames {
            writer.encode(frame.clone(), &mut wire).unwrap();
        }
        let (mut reader, mut buffer, mut seen) = (FrameReader::new(), BytesMut::new(), Vec::new());
        for cut in cuts.iter().cycle() {
            if wire.is_empty() {
                break;
            }
            buffer.extend(wire.split_to((*cut).min(wire.len())));
            while let Some(frame) = reader.decode(&mut buffer).unwrap() {
                seen.push(frame);
            }
        }
        prop_assert_eq!(joined(seen), frames);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _frames_or_error = read(BytesMut::from(bytes.as_slice()));
    }

    #[test]
    fn no_control_frame_makes_the_reader_panic(
        kind in 1_u8..10,
        flags in any::<u8>(),
        body in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        let head = [0x80, 3, 0, kind, flags, 0, length[0], length[1]];
        let _frames_or_error = read(BytesMut::from([head.as_slice(), &body].concat().as_slice()));
    }

    /// A block cut or changed anywhere is read or refused, and never more than the limit.
    #[test]
    fn damaged_headers_are_never_too_many(
        all in any_headers(),
        at in any::<prop::sample::Index>(),
        with in any::<u8>(),
    ) {
        let mut block = HeaderWriter::new().write(&all).unwrap();
        let at = at.index(block.len());
        block[at] = with;
        if let Ok(read) = HeaderReader::new().read(&block) {
            let size: usize = read.iter().map(|(name, value)| name.len() + value.len()).sum();
            prop_assert!(size <= LARGEST_BLOCK);
        }
    }
}

/// The client's end.
pub(crate) type Client = Framed<DuplexStream, Codec>;

/// Both ends of a connection: frames in both directions, through the codec both use.
pub(crate) struct Both;

impl Both {
    pub(crate) fn connect() -> (Connection, Client) {
        let (server, client) = tokio::io::duplex(64 << 10);
        let codec = Codec(FrameReader::new(), FrameWriter::new());
        (connection::serve(server, &Shutdown::default()), Framed::new(client, codec))
    }
}

#[derive(Debug)]
pub(crate) struct Codec(FrameReader, FrameWriter);

impl Decoder for Codec {
    type Item = Frame;
    type Error = FrameError;
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        self.0.decode(buffer)
    }
}

impl Encoder<Frame> for Codec {
    type Error = FrameError;
    fn encode(&mut self, frame: Frame, out: &mut BytesMut) -> Result<(), FrameError> {
        self.1.encode(frame, out)
    }
}

fn open(id: u32) -> Frame {
    Frame::SynStream { id, fin: false, unidirectional: false, headers: headers(&[("a", "b")]) }
}

fn data(id: u32, fin: bool, text: &'static str) -> Frame {
    Frame::Data { id, fin, bytes: Bytes::from_static(text.as_bytes()) }
}

#[tokio::test]
async fn streams_carry_data_both_ways_and_end() {
    let (mut server, mut client) = Both::connect();
    client.send(open(1)).await.unwrap();
    client.send(Frame::Ping(9)).await.unwrap();
    let mut stream = server.opened.recv().await.unwrap();
    assert_eq!((stream.header("a"), stream.output.id), (Some("b"), 1));
    assert_eq!(client.next().await.unwrap().unwrap(), Frame::Ping(9));
    stream.accept().await.unwrap();
    let reply = Frame::SynReply { id: 1, fin: false, headers: Headers::new() };
    assert_eq!(client.next().await.unwrap().unwrap(), reply);
    client.send(data(1, false, "in")).await.unwrap();
    client.send(data(1, true, "put")).await.unwrap();
    assert_eq!(stream.input.recv().await.unwrap(), "in");
    assert_eq!(stream.input.recv().await.unwrap(), "put");
    assert_eq!(stream.input.recv().await, None);
    assert!(!stream.output.gone.is_cancelled());
    stream.output.send(Bytes::from_static(b"output")).await.unwrap();
    stream.output.finish().await.unwrap();
    server.close().await;
    assert_eq!(client.next().await.unwrap().unwrap(), data(1, false, "output"));
    assert_eq!(client.next().await.unwrap().unwrap(), data(1, true, ""));
    assert_eq!(client.next().await.unwrap().unwrap(), Frame::GoAway { last: ALL, status: 0 });
    assert!(client.next().await.is_none());
}

#[tokio::test]
async fn a_reset_and_a_lost_client_are_told_apart() {
    let (mut server, mut client) = Both::connect();
    client.send(open(1)).await.unwrap();
    client.send(open(3)).await.unwrap();
    let first = server.opened.recv().await.unwrap();
    let second = server.opened.recv().await.unwrap();
    client.send(Frame::RstStream { id: 1, status: 5 }).await.unwrap();
    first.output.gone.cancelled().await;
    assert!(first.output.send(Bytes::from_static(b"x")).await.is_err());
    assert!(!second.output.gone.is_cancelled() && !server.gone.is_cancelled());
    drop(client);
    server.gone.cancelled().await;
    assert!(second.output.gone.is_cancelled());
}

#[tokio::test]
async fn bad_numbers_and_bad_frames_end_the_connection() {
    for bad in [open(2), open(1)] {
        let (mut server, mut client) = Both::connect();
        client.send(open(1)).await.unwrap();
        let _first = server.opened.recv().await.unwrap();
        client.send(bad).await.unwrap();
        server.gone.cancelled().await;
        assert_eq!(client.next().await.unwrap().unwrap(), Frame::GoAway { last: 1, status: 1 });
    }
    let (server, mut client) = Both::connect();
    client.get_mut().write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    client.get_mut().write_all(&[0x80, 9, 0, 1, 0, 0, 0, 0]).await.unwrap();
    client.get_mut().shutdown().await.unwrap();
    server.gone.cancelled().await;
}

#[tokio::test]
async fn a_reader_that_waits_holds_the_client_back() {
    let (mut server, mut client) = Both::connect();
    client.send(open(1)).await.unwrap();
    let mut stream = server.opened.recv().await.unwrap();
    let chunk = Bytes::from(vec![1; CHUNK]);
    let mut sent = 0;
    let wait = std::time::Duration::from_millis(200);
    let frame = || Frame::Data { id: 1, fin: false, bytes: chunk.clone() };
    while let Ok(result) = tokio::time::timeout(wait, client.send(frame())).await {
        result.unwrap();
        sent += 1;
        assert!(sent < 64, "a megabyte waits");
    }
    let first = stream.input.recv().await.unwrap();
    assert!((1..=CHUNK).contains(&first.len()), "{}", first.len());
}

#[tokio::test]
async fn too_many_streams_are_refused() {
    let (mut server, mut client) = Both::connect();
    let mut kept = Vec::new();
    let (limit, mut refused) = (u32::try_from(MOST_STREAMS).unwrap(), None);
    for number in 0..=limit {
        client.send(open(number * 2 + 1)).await.unwrap();
        if number < limit {
            kept.push(server.opened.recv().await.unwrap());
        } else {
            refused = Some(client.next().await.unwrap().unwrap());
        }
    }
    assert_eq!(refused, Some(Frame::RstStream { id: limit * 2 + 1, status: 3 }));
    kept.pop();
    client.send(open(limit * 2 + 3)).await.unwrap();
    assert_eq!(server.opened.recv().await.unwrap().output.id, limit * 2 + 3);
}
