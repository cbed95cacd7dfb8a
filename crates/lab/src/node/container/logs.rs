//! What a container wrote, as lines with a time and a stream, in one file per run.
//!
//! A line of the file is `TIME STREAM TAG TEXT`; the tag is `F` for a whole line and `P` for a
//! part of one that is longer than [`MOST`]. A file that grows past [`ROTATE`] moves to `NAME.1`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::{broadcast, watch};

/// The longest piece that is written as one line.
const MOST: usize = 16 << 10;

/// The size at which a log file is set aside.
const ROTATE: u64 = 10 << 20;

/// Output that someone who is attached sees; who is slower than this loses some.
const ATTACHED: usize = 64;

/// Where a container wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// The log of one run.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: Mutex<(File, u64)>,
    /// Grows with each line; closed when the run has ended.
    written: watch::Sender<u64>,
    live: broadcast::Sender<(Stream, Bytes)>,
}

impl Log {
    pub(crate) fn create(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let size = file.metadata()?.len();
        let (live, _) = broadcast::channel(ATTACHED);
        Ok(Self { path, file: Mutex::new((file, size)), written: watch::Sender::new(0), live })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Tells of each line that is written; ends with the run.
    pub(crate) fn follow(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }

    /// Everything written from now on, as it was written.
    pub(crate) fn attach(&self) -> broadcast::Receiver<(Stream, Bytes)> {
        self.live.subscribe()
    }

    fn line(&self, stream: Stream, text: &[u8]) -> io::Result<()> {
        let (whole, body) = match text.strip_suffix(b"\n") {
            Some(body) => ('F', body),
            None => ('P', text),
        };
        let name = if stream == Stream::Stdout { "stdout" } else { "stderr" };
        let mut line = format!("{:.9} {name} {whole} ", Timestamp::now()).into_bytes();
        line.extend_from_slice(body);
        line.push(b'\n');
        {
            let mut file = self.file.lock();
            if file.1 > ROTATE {
                fs::rename(&self.path, rotated(&self.path))?;
                *file = (OpenOptions::new().create(true).append(true).open(&self.path)?, 0);
            }
            file.0.write_all(&line)?;
            file.1 += line.len() as u64;
        }
        self.written.send_modify(|count| *count += 1);
        // An error means that nobody is attached.
        let _nobody = self.live.send((stream, Bytes::copy_from_slice(text)));
        Ok(())
    }

    /// Writes down everything that comes from `source`, until it ends.
    pub(crate) async fn record(
        &self,
        stream: Stream,
        source: impl AsyncRead + Unpin,
    ) -> io::Result<()> {
        let mut source = BufReader::with_capacity(MOST, source);
        let mut line = Vec::new();
        loop {
            let chunk = source.fill_buf().await?;
            if chunk.is_empty() {
                break;
            }
            let used =
                chunk.iter().position(|byte| *byte == b'\n').map_or(chunk.len(), |at| at + 1);
            let used = used.min(MOST - line.len());
            line.extend_from_slice(chunk.get(..used).unwrap_or_default());
            source.consume(used);
            if line.ends_with(b"\n") || line.len() >= MOST {
                self.line(stream, &line)?;
                line.clear();
            }
        }
        if line.is_empty() { Ok(()) } else { self.line(stream, &line) }
    }
}

/// Where the older part of a log is.
pub(crate) fn rotated(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// The text of the last lines of a log, at most `lines` and `bytes`.
pub(crate) fn tail(path: &Path, lines: usize, bytes: usize) -> String {
    let Ok(text) = fs::read(path) else { return String::new() };
    let text = String::from_utf8_lossy(&text);
    let bodies: Vec<&str> = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    let from = bodies.len().saturating_sub(lines);
    let mut out: String = bodies.iter().skip(from).flat_map(|line| [line, "\n"]).collect();
    let mut cut = out.len().saturating_sub(bytes);
    while !out.is_char_boundary(cut) {
        cut += 1;
    }
    out.split_off(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_kept_whole_and_long_ones_in_parts() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::create(folder.path().join("0.log")).unwrap();
        let text = format!("one\n{}\nrest", "x".repeat(MOST + 5));
        log.record(Stream::Stderr, text.as_bytes()).await.unwrap();
        let written = fs::read_to_string(log.path()).unwrap();
        let lines: Vec<(usize, &str, usize)> = written
            .lines()
            .map(|line| {
                let parts: Vec<&str> = line.splitn(4, ' ').collect();
                (parts[0].len(), parts[2], parts[3].len())
            })
            .collect();
        assert_eq!(lines, [(30, "F", 3), (30, "P", MOST), (30, "F", 5), (30, "P", 4)]);
        assert_eq!(tail(log.path(), 1, 100), "rest\n");
    }
}
