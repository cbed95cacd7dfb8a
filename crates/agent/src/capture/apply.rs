//! Puts rules in place with the `nft` program.

use std::io::Write;
use std::process::{Command, Stdio};

/// Where `nft` is, if the search path does not lead to it: containers often leave `sbin` out.
const PLACES: [&str; 4] = ["nft", "/usr/sbin/nft", "/sbin/nft", "/usr/local/sbin/nft"];

/// Why the rules are not in place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the program nft is missing: install nftables in the image or on the node")]
    Missing,
    #[error("run nft")]
    Run(#[source] std::io::Error),
    #[error("nft refused the rules: {0}")]
    Refused(String),
}

/// Hands a script to `nft`, which applies all of it or nothing.
///
/// # Errors
/// When `nft` is missing or refuses, for example for lack of the capability NET_ADMIN.
pub fn apply(script: &str) -> Result<(), Error> {
    for place in PLACES {
        let started = Command::new(place)
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match started {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::Run(error)),
        };
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(script.as_bytes()).map_err(Error::Run)?;
        }
        let output = child.wait_with_output().map_err(Error::Run)?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Refused(text));
    }
    Err(Error::Missing)
}
