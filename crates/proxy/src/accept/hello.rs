//! Reads a TLS ClientHello that arrives in pieces: server name and application protocols.
//!
//! Nothing is decrypted and nothing is answered. The bytes stay untouched for whoever terminates
//! TLS, here or far behind a gateway. A hello may be cut anywhere, into segments and into records.

/// A hello larger than this is refused.
pub const LIMIT: usize = 64 * 1024;

const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

/// What a client says first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// In lower case.
    pub server_name: Option<String>,
    pub alpn: Vec<String>,
}

/// What the bytes so far amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// More bytes are needed.
    Incomplete,
    /// This is not TLS.
    NotTls,
    /// This began as TLS, but is broken or too large.
    Broken,
    Hello(Hello),
}

/// Reads the first bytes of a connection.
pub fn read(bytes: &[u8]) -> Reading {
    match bytes {
        [] => return Reading::Incomplete,
        // Record type, and a legacy version of 3.x: everything since SSL 3.0.
        [HANDSHAKE_RECORD] | [HANDSHAKE_RECORD, 3] => return Reading::Incomplete,
        [HANDSHAKE_RECORD, 3, minor, ..] if *minor <= 4 => {}
        _ => return Reading::NotTls,
    }
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        if let Some(hello) = whole(&message) {
            return hello;
        }
        if rest.is_empty() {
            break;
        }
        let Some((header, after)) = rest.split_at_checked(5) else { break };
        if header[0] != HANDSHAKE_RECORD || header[1] != 3 {
            return Reading::Broken;
        }
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        // RFC 8446: no empty handshake records, and none over 2^14 bytes.
        if length == 0 || length > 1 << 14 {
            return Reading::Broken;
        }
        let available = length.min(after.len());
        message.extend_from_slice(&after[..available]);
        rest = &after[available..];
        if available < length {
            if let Some(hello) = whole(&message) {
                return hello;
            }
            break;
        }
    }
    if bytes.len() >= LIMIT { Reading::Broken } else { Reading::Incomplete }
}

/// The hello if the handshake message is complete, or what is wrong with its beginning.
fn whole(message: &[u8]) -> Option<Reading> {
    let (&kind, rest) = message.split_first()?;
    if kind != CLIENT_HELLO {
        return Some(Reading::Broken);
    }
    let (length, rest) = rest.split_at_checked(3)?;
    let length =
        usize::from(length[0]) << 16 | usize::from(length[1]) << 8 | usize::from(length[2]);
    if length > LIMIT {
        return Some(Reading::Broken);
    }
    let body = rest.get(..length)?;
    Some(parse(body).map_or(Reading::Broken, Reading::Hello))
}

/// A cursor over bytes whose every step may fail.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn short(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn with_byte_length(&mut self) -> Option<Cursor<'a>> {
        let length = self.byte()?;
        self.take(length.into()).map(Cursor)
    }

    fn with_short_length(&mut self) -> Option<Cursor<'a>> {
        let length = self.short()?;
        self.take(length.into()).map(Cursor)
    }
}

fn parse(body: &[u8]) -> Option<Hello> {
    let mut cursor = Cursor(body);
    cursor.take(2 + 32)?; // version, random
    cursor.with_byte_length()?; // session id
    cursor.with_short_length()?; // cipher suites
    cursor.with_byte_length()?; // compression methods
    let mut hello = Hello::default();
    if cursor.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = cursor.with_short_length()?;
    let mut seen = (false, false);
    while !extensions.0.is_empty() {
        let kind = extensions.short()?;
        let content = extensions.with_short_length()?;
        match kind {
            // An extension that comes twice could mean different things to different readers.
            SERVER_NAME if std::mem::replace(&mut seen.0, true) => return None,
            ALPN if std::mem::replace(&mut seen.1, true) => return None,
            SERVER_NAME => hello.server_name = server_name(content)?,
            ALPN => hello.alpn = alpn(content)?,
            _ => {}
        }
    }
    Some(hello)
}

/// The only host name. An address or an unknown kind of name counts as none, as does an empty one.
fn server_name(mut content: Cursor<'_>) -> Option<Option<String>> {
    let mut list = content.with_short_length()?;
    let mut found = None;
    while !list.0.is_empty() {
        let kind = list.byte()?;
        let name = list.with_short_length()?.0;
        if kind != 0 {
            continue;
        }
        if found.is_some() {
            return None;
        }
        let name = std::str::from_utf8(name).ok()?;
        let plain = |c: char| c.is_ascii_graphic();
        if name.len() > 255 || !name.chars().all(plain) {
            return None;
        }
        found = Some(name.to_ascii_lowercase());
    }
    Some(found.filter(|name| !name.is_empty()))
}

fn alpn(mut content: Cursor<'_>) -> Option<Vec<String>> {
    let mut list = content.with_short_length()?;
    let mut names = Vec::new();
    while !list.0.is_empty() {
        let name = list.with_byte_length()?.0;
        // A name that is not text (GREASE) fits no configuration.
        names.push(String::from_utf8_lossy(name).into_owned());
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A hello as a client would send it, in records of at most `record` bytes.
    fn client_hello(name: Option<&str>, alpn: &[&str], record: usize) -> Vec<u8> {
        let mut extensions = Vec::new();
        let mut add = |kind: u16, content: &[u8]| {
            extensions.extend(kind.to_be_bytes());
            extensions.extend((content.len() as u16).to_be_bytes());
            extensions.extend(content);
        };
        add(0x0a0a, &[]);
        if let Some(name) = name {
            let mut entry = vec![0];
            entry.extend((name.len() as u16).to_be_bytes());
            entry.extend(name.as_bytes());
            let mut list = (entry.len() as u16).to_be_bytes().to_vec();
            list.extend(entry);
            add(SERVER_NAME, &list);
        }
        if !alpn.is_empty() {
            let names: Vec<u8> =
                alpn.iter().flat_map(|n| [&[n.len() as u8], n.as_bytes()].concat()).collect();
            let mut list = (names.len() as u16).to_be_bytes().to_vec();
            list.extend(names);
            add(ALPN, &list);
        }
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.push(0);
        body.extend([0, 2, 0x13, 0x01]);
        body.extend([1, 0]);
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
        let mut message = vec![CLIENT_HELLO];
        message.extend(&(body.len() as u32).to_be_bytes()[1..]);
        message.extend(body);
        message
            .chunks(record)
            .flat_map(|chunk| {
                let mut bytes = vec![HANDSHAKE_RECORD, 3, 1];
                bytes.extend((chunk.len() as u16).to_be_bytes());
                bytes.extend(chunk);
                bytes
            })
            .collect()
    }

    fn wanted() -> Reading {
        Reading::Hello(Hello {
            server_name: Some("outbound_.80_._.a.ns.svc.cluster.local".to_owned()),
            alpn: vec!["istio".to_owned(), "h2".to_owned()],
        })
    }

    #[test]
    fn a_hello_cut_anywhere_reads_the_same() {
        let name = Some("outbound_.80_._.A.ns.svc.cluster.local");
        for record in [1, 2, 3, 7, 64, 16384] {
            let bytes = client_hello(name, &["istio", "h2"], record);
            for end in 0..bytes.len() {
                assert_eq!(read(&bytes[..end]), Reading::Incomplete, "record {record}, {end}");
            }
            assert_eq!(read(&bytes), wanted(), "record {record}");
        }
    }

    #[test]
    fn other_protocols_are_not_tls() {
        assert_eq!(read(b"GET / HTTP/1.1\r\n"), Reading::NotTls);
        assert_eq!(read(&[0x80, 0x2e, 1, 3, 1]), Reading::NotTls);
        assert_eq!(read(&[22, 2, 0]), Reading::NotTls);
    }

    #[test]
    fn a_name_that_comes_twice_or_is_no_text_is_broken() {
        let bytes = client_hello(Some("a\0b"), &[], 16384);
        assert_eq!(read(&bytes), Reading::Broken);
        let long = "a".repeat(256);
        assert_eq!(read(&client_hello(Some(&long), &[], 16384)), Reading::Broken);
    }

    #[test]
    fn a_hello_without_a_name_has_none() {
        let bytes = client_hello(None, &[], 16384);
        assert_eq!(read(&bytes), Reading::Hello(Hello::default()));
        let bytes = client_hello(Some(""), &[], 16384);
        assert_eq!(read(&bytes), Reading::Hello(Hello::default()));
    }

    #[test]
    fn a_message_that_claims_to_be_huge_is_broken_at_once() {
        assert_eq!(read(&[22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff]), Reading::Broken);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            read(&bytes);
            let mut tls = vec![22, 3, 1];
            tls.extend(&bytes);
            read(&tls);
        }

        #[test]
        fn a_damaged_hello_never_panics(at in 0_usize..120, byte in any::<u8>()) {
            let mut bytes = client_hello(Some("a.example"), &["h2"], 64);
            let at = at % bytes.len();
            bytes[at] = byte;
            read(&bytes);
        }
    }
}
