//! Reading containers' logs as `kubectl logs` asks for them.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::Stream;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use crate::node::container::logs::rotated;

/// What part of a log is wanted, and how it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub tail: Option<usize>,
    pub limit: Option<usize>,
    pub since: Option<Timestamp>,
}

impl Wanted {
    /// Reads the request's parameters.
    ///
    /// # Errors
    /// A text that names the parameter that does not parse.
    pub(crate) fn parse(query: &[(String, String)], now: Timestamp) -> Result<Self, String> {
        let mut wanted = Self::default();
        for (key, value) in query {
            let bad = || format!("the parameter {key}={value} does not parse");
            let flag = || matches!(value.as_str(), "true" | "1");
            match key.as_str() {
                "follow" => wanted.follow = flag(),
                "previous" => wanted.previous = flag(),
                "timestamps" => wanted.timestamps = flag(),
                "tailLines" => wanted.tail = Some(value.parse().map_err(|_| bad())?),
                "limitBytes" => wanted.limit = Some(value.parse().map_err(|_| bad())?),
                "sinceTime" => wanted.since = Some(value.parse().map_err(|_| bad())?),
                "sinceSeconds" => {
                    let seconds: i64 = value.parse().map_err(|_| bad())?;
                    wanted.since = Some(now - SignedDuration::from_secs(seconds));
                }
                _ => (),
            }
        }
        Ok(wanted)
    }
}

/// A container's run that may still write.
#[derive(Debug)]
pub(crate) struct Writing {
    pub lines: watch::Receiver<u64>,
    pub ending: watch::Receiver<bool>,
}

/// A log that is being read.
struct Reader {
    path: PathBuf,
    wanted: Wanted,
    file: Option<File>,
    /// Bytes of a line whose end is not there yet.
    rest: Vec<u8>,
    left: Option<usize>,
    writing: Option<Writing>,
}

/// The log at `path`, up to its end, or for as long as the run that writes it lasts.
pub(crate) fn read(
    path: PathBuf,
    wanted: Wanted,
    writing: Option<Writing>,
) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send> {
    let writing = writing.filter(|_| wanted.follow);
    let mut reader =
        Reader { file: None, rest: Vec::new(), left: wanted.limit, writing, path, wanted };
    let first = reader.first()?;
    Ok(futures::stream::unfold((Some(first), reader), |(first, mut reader)| async move {
        let next = match first {
            Some(first) if !first.is_empty() => Ok(first),
            _ => match reader.next().await {
                Ok(Some(next)) => Ok(next),
                Ok(None) => return None,
                Err(error) => Err(error),
            },
        };
        Some((next, (None, reader)))
    }))
}

impl Reader {
    /// What is there already.
    fn first(&mut self) -> io::Result<Bytes> {
        let mut text = match File::open(rotated(&self.path)) {
            Ok(mut old) => {
                let mut text = Vec::new();
                old.read_to_end(&mut text)?;
                text
            }
            Err(_) => Vec::new(),
        };
        let mut file = File::open(&self.path)?;
        file.read_to_end(&mut text)?;
        self.file = Some(file);
        let lines = self.whole_lines(text);
        let mut shown: VecDeque<Vec<u8>> = VecDeque::new();
        for line in lines {
            shown.extend(show(&line, &self.wanted));
            if self.wanted.tail.is_some_and(|tail| shown.len() > tail) {
                shown.pop_front();
            }
        }
        Ok(self.limited(shown.into_iter().flatten().collect()))
    }

    /// What has come since; none at the end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if self.left == Some(0) {
                return Ok(None);
            }
            let over = match &mut self.writing {
                None => return Ok(None),
                Some(writing) => tokio::select! {
                    changed = writing.lines.changed() => changed.is_err(),
                    ended = writing.ending.wait_for(|ended| *ended) => { drop(ended); true }
                },
            };
            let text = self.more()?;
            if over {
                self.writing = None;
            }
            let lines = self.whole_lines(text);
            let shown: Vec<u8> =
                lines.iter().filter_map(|line| show(line, &self.wanted)).flatten().collect();
            if !shown.is_empty() {
                return Ok(Some(self.limited(shown)));
            }
        }
    }

    fn more(&mut self) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        if let Some(file) = &mut self.file {
            file.read_to_end(&mut text)?;
            // The log may have been set aside, and goes on in a new file.
            if inode(&self.path)? != file.metadata()?.ino() {
                let mut fresh = File::open(&self.path)?;
                fresh.read_to_end(&mut text)?;
                self.file = Some(fresh);
            }
        }
        Ok(text)
    }

    fn whole_lines(&mut self, text: Vec<u8>) -> Vec<Vec<u8>> {
        self.rest.extend(text);
        let end = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let rest = self.rest.split_off(end);
        let lines = std::mem::replace(&mut self.rest, rest);
        lines.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
    }

    fn limited(&mut self, mut text: Vec<u8>) -> Bytes {
        if let Some(left) = &mut self.left {
            text.truncate(*left);
            *left -= text.len();
        }
        text.into()
    }
}

fn inode(path: &Path) -> io::Result<u64> {
    Ok(std::fs::metadata(path)?.ino())
}

/// A line of the file as the user sees it; none when it is too old.
fn show(line: &[u8], wanted: &Wanted) -> Option<Vec<u8>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let (time, _stream, tag, body) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if let Some(since) = wanted.since {
        let time: Timestamp = std::str::from_utf8(time).ok()?.parse().ok()?;
        if time < since {
            return None;
        }
    }
    let body = if tag == b"P" { body.strip_suffix(b"\n").unwrap_or(body) } else { body };
    if wanted.timestamps {
        return Some([time, b" ", body].concat());
    }
    Some(body.to_vec())
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    const LOG: &str = "2026-01-01T00:00:01.000000000Z stdout F one\n2026-01-01T00:00:02.000000000Z stderr P tw\n2026-01-01T00:00:02.100000000Z stderr F o\n2026-01-01T00:00:03.000000000Z stdout F three\n";

    async fn shown(query: &[(&str, &str)]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        let query: Vec<_> =
            query.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let wanted = Wanted::parse(&query, "2026-01-01T00:00:12Z".parse().unwrap()).unwrap();
        let parts: Vec<_> = read(path, wanted, None).unwrap().collect().await;
        parts.into_iter().map(|part| String::from_utf8(part.unwrap().to_vec()).unwrap()).collect()
    }

    #[tokio::test]
    async fn parts_of_a_log_are_chosen_by_parameters() {
        assert_eq!(shown(&[]).await, "one\ntwo\nthree\n");
        assert_eq!(shown(&[("tailLines", "1")]).await, "three\n");
        assert_eq!(shown(&[("sinceSeconds", "10")]).await, "two\nthree\n");
        assert_eq!(
            shown(&[("sinceTime", "2026-01-01T00:00:03Z"), ("timestamps", "true")]).await,
            "2026-01-01T00:00:03.000000000Z three\n"
        );
        assert_eq!(shown(&[("limitBytes", "5")]).await, "one\nt");
        assert_eq!(shown(&[("tailLines", "0")]).await, "");
    }

    #[tokio::test]
    async fn a_followed_log_ends_with_its_run() {
        use std::io::Write;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        let (lines, ending) = (watch::Sender::new(0), watch::Sender::new(false));
        let writing = Writing { lines: lines.subscribe(), ending: ending.subscribe() };
        let wanted = Wanted { follow: true, tail: Some(1), ..Wanted::default() };
        let mut parts = std::pin::pin!(read(path.clone(), wanted, Some(writing)).unwrap());
        assert_eq!(parts.next().await.unwrap().unwrap(), "three\n");
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"2026-01-01T00:00:04.000000000Z stdout F four\n").unwrap();
        lines.send_modify(|count| *count += 1);
        assert_eq!(parts.next().await.unwrap().unwrap(), "four\n");
        ending.send_replace(true);
        assert!(parts.next().await.is_none());
    }

    #[test]
    fn a_parameter_that_does_not_parse_is_named() {
        let query = [("tailLines".to_owned(), "x".to_owned())];
        assert_eq!(
            Wanted::parse(&query, Timestamp::now()),
            Err("the parameter tailLines=x does not parse".into())
        );
    }
}
