//! Frames on the control socket, and the file descriptors that travel with a request.

#![expect(unsafe_code, reason = "received file descriptors have to be taken into ownership")]

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// No request or answer is near this size; a larger length means that the peer is not one of us.
const LONGEST: u32 = 16 << 20;

/// The most descriptors that travel with a request: three standard streams.
pub const MOST_DESCRIPTORS: usize = 3;

/// Sends a document, with descriptors on its first byte.
///
/// # Errors
/// When the peer is gone.
pub fn send<T: Serialize>(
    stream: &mut UnixStream,
    document: &T,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let body = serde_json::to_vec(document)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(body);
    let raw: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    let sent = sendmsg::<UnixAddr>(
        stream.as_raw_fd(),
        &[IoSlice::new(&frame)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    stream.write_all(frame.get(sent..).unwrap_or_default())
}

/// Receives a document and the descriptors that came with it.
///
/// # Errors
/// When the peer is gone or sends something else than a frame.
pub fn receive<T: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut length = [0_u8; 4];
    let (got, descriptors) = receive_first(stream, &mut length)?;
    stream.read_exact(length.get_mut(got..).unwrap_or_default())?;
    let length = u32::from_be_bytes(length);
    if length > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a frame of a lab's socket"));
    }
    let mut body = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    stream.read_exact(&mut body)?;
    Ok((serde_json::from_slice(&body)?, descriptors))
}

fn receive_first(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; MOST_DESCRIPTORS]);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<UnixAddr>(
        stream.as_raw_fd(),
        &mut slices,
        Some(&mut control),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            // SAFETY: the kernel just made these descriptors for this process, and nothing else
            // has seen their numbers, so each gets exactly one owner here.
            descriptors.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    match message.bytes {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        bytes => Ok((bytes, descriptors)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_document_and_its_descriptors_arrive_together() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send(&mut here, &vec!["a".repeat(100_000)], &[writer.as_fd()]).unwrap();
        let (document, descriptors) = std::thread::scope(|scope| {
            scope.spawn(|| receive::<Vec<String>>(&mut there).unwrap()).join().unwrap()
        });
        assert_eq!(document, ["a".repeat(100_000)]);
        drop(writer);
        let mut passed: io::PipeWriter = descriptors.into_iter().next().unwrap().into();
        passed.write_all(b"hello").unwrap();
        drop(passed);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn a_stranger_on_the_socket_is_refused() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        here.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        let error = receive::<String>(&mut there).unwrap_err();
        assert_eq!(error.to_string(), "not a frame of a lab's socket");
    }
}
