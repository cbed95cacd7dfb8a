//! The `openssl` program, and keys that are made quickly.

use std::path::Path;
use std::process::Command;

use tombolo_ca::offline::Settings;
use tombolo_tls::key::KeyKind;

/// What an `openssl` command prints, which must succeed.
pub fn openssl(folder: &Path, arguments: &str) -> String {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
        .expect("the openssl program is installed (Debian package openssl)");
    assert!(
        output.status.success(),
        "openssl {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Smaller keys than the default, so that tests are quick.
pub fn quick(settings: Settings) -> Settings {
    Settings { key: KeyKind::Rsa2048, ..settings }
}
