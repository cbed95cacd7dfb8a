//! Serial numbers as `openssl x509 -CAcreateserial` counts them: a file beside the root holds the
//! last one in hexadecimal, and starts at a random one, so that either program can go on.

use std::io;
use std::path::Path;

use aws_lc_rs::rand;
use rcgen::SerialNumber;

use super::Error;

/// One serial number, positive and of at most 20 bytes (RFC 5280, 4.1.2.2).
pub(super) struct Serial(Vec<u8>);

impl Serial {
    /// The number after the last one of `file`.
    pub(super) fn next(file: &Path) -> Result<Self, Error> {
        match std::fs::read_to_string(file) {
            Ok(text) => {
                let last = parse(text.trim()).ok_or_else(|| Error::Serial(file.to_owned()))?;
                after(last).map(Self).ok_or_else(|| Error::Serial(file.to_owned()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self(random())),
            Err(source) => Err(Error::File { verb: "read", path: file.to_owned(), source }),
        }
    }

    pub(super) fn number(&self) -> SerialNumber {
        SerialNumber::from_slice(&self.0)
    }

    /// The content of the file once this number is used.
    pub(super) fn text(&self) -> String {
        let digits: String = self.0.iter().map(|byte| format!("{byte:02X}")).collect();
        digits + "\n"
    }
}

fn random() -> Vec<u8> {
    let mut bytes = vec![0u8; 20];
    rand::fill(&mut bytes).expect("the provider's random numbers do not run out");
    // Positive, without a leading zero byte, and with room to count.
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x3f) | 0x40;
    }
    bytes
}

fn parse(text: &str) -> Option<Vec<u8>> {
    let text = if text.len().is_multiple_of(2) { text.to_owned() } else { format!("0{text}") };
    if text.is_empty() || !text.is_ascii() {
        return None;
    }
    (0..text.len() / 2).map(|i| u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()).collect()
}

/// The next number, if it fits.
fn after(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    for byte in bytes.iter_mut().rev() {
        let (next, carry) = byte.overflowing_add(1);
        *byte = next;
        if !carry {
            let significant = bytes.iter().position(|byte| *byte != 0).unwrap_or(0);
            let mut bytes = bytes.split_off(significant);
            if bytes.first().is_some_and(|first| *first >= 0x80) {
                bytes.insert(0, 0);
            }
            return (bytes.len() <= 20).then_some(bytes);
        }
    }
    bytes.insert(0, 1);
    (bytes.len() <= 20).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_carries_and_stays_positive() {
        for (last, next) in [
            ("01", "02"),
            ("0FFF", "1000"),
            ("7F", "0080"),
            ("FF", "0100"),
            ("9", "0A"),
            ("00", "01"),
        ] {
            let counted = after(parse(last).unwrap()).map(Serial).unwrap();
            assert_eq!(counted.text().trim(), next, "{last}");
        }
        assert!(after(vec![0x7f; 21]).is_none() && parse("xyz0").is_none() && parse("").is_none());
    }

    #[test]
    fn a_first_number_is_random_and_the_next_one_follows() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("root-cert.srl");
        let first = Serial::next(&file).unwrap();
        std::fs::write(&file, first.text()).unwrap();
        let second = Serial::next(&file).unwrap();
        assert_eq!(after(first.0).unwrap(), second.0);
        std::fs::write(&file, "not a number\n").unwrap();
        assert!(matches!(Serial::next(&file), Err(Error::Serial(_))));
    }
}
