//! Tells HTTP from other protocols by a connection's first bytes.

/// What the bytes so far amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// More bytes are needed.
    Incomplete,
    Http10,
    Http11,
    Http2,
    NotHttp,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A request line longer than this is not recognised as HTTP.
const LINE: usize = 16 * 1024;
/// The methods that are known to be HTTP.
const METHODS: &[&str] = &[
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "CONNECT",
    "OPTIONS",
    "TRACE",
    "PATCH",
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "COPY",
    "LABEL",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "ORDERPATCH",
    "PRI",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "REBIND",
    "REPORT",
    "SEARCH",
    "SOURCE",
    "SUBSCRIBE",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UNSUBSCRIBE",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
    "M-SEARCH",
    "NOTIFY",
];

/// Looks at the first bytes of a connection.
pub fn detect(bytes: &[u8]) -> Detected {
    let start = bytes.len().min(PREFACE.len());
    if bytes[..start] == PREFACE[..start] {
        return if start == PREFACE.len() { Detected::Http2 } else { Detected::Incomplete };
    }
    let line_end = bytes.iter().position(|byte| *byte == b'\n');
    let line = &bytes[..line_end.unwrap_or(bytes.len())];
    let method_end = line.iter().position(|byte| *byte == b' ');
    let Ok(method) = std::str::from_utf8(&line[..method_end.unwrap_or(line.len())]) else {
        return Detected::NotHttp;
    };
    match (method_end, line_end) {
        (None, None) if METHODS.iter().any(|known| known.starts_with(method)) => {
            Detected::Incomplete
        }
        (Some(_), None) if METHODS.contains(&method) && bytes.len() < LINE => Detected::Incomplete,
        (Some(_), Some(_)) if METHODS.contains(&method) => {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            match line {
                line if line.ends_with(b" HTTP/1.1") => Detected::Http11,
                line if line.ends_with(b" HTTP/1.0") => Detected::Http10,
                _ => Detected::NotHttp,
            }
        }
        _ => Detected::NotHttp,
    }
}

impl Detected {
    /// The name by which filter chains match it.
    pub fn protocol(self) -> Option<&'static str> {
        match self {
            Self::Http10 => Some("http/1.0"),
            Self::Http11 => Some("http/1.1"),
            Self::Http2 => Some("h2c"),
            Self::Incomplete | Self::NotHttp => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_from_other_bytes() {
        for (bytes, want) in [
            (&b"GET / HTTP/1.1\r\nhost"[..], Detected::Http11),
            (b"GET / HTTP/1.0\n", Detected::Http10),
            (b"GE", Detected::Incomplete),
            (b"GET /long", Detected::Incomplete),
            (b"PRI * HTTP/2.0\r\n\r\nSM", Detected::Incomplete),
            (PREFACE, Detected::Http2),
            (b"HELLO world\r\n", Detected::NotHttp),
            (b"GET / SPDY/3\r\n", Detected::NotHttp),
            (b"\x16\x03\x01", Detected::NotHttp),
            (b"", Detected::Incomplete),
        ] {
            assert_eq!(detect(bytes), want, "{}", String::from_utf8_lossy(bytes));
        }
    }
}
