//! Container images of a lab: a table from image name to a command of this machine.
//!
//! Registry, tag and digest do not matter: a lab runs the programs that are installed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// What an image brings along.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Image {
    #[serde(default)]
    pub entrypoint: Vec<String>,
    #[serde(default)]
    pub command: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The user of its processes, when the pod names none.
    #[serde(default)]
    pub user: u32,
}

/// Why a file of further images cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    #[error("read the image table {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("parse the image table {path}")]
    Parse { path: PathBuf, source: Box<serde_saphyr::Error> },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    images: BTreeMap<String, Image>,
}

/// Every image that pods of this node can name.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    table: BTreeMap<String, Image>,
}

const TOMBOLO: &str = "/usr/local/bin/tombolo";

impl Images {
    /// The images every lab has.
    pub(crate) fn built_in() -> Self {
        let own = |args: &[&str]| Image {
            entrypoint: std::iter::once(&TOMBOLO).chain(args).map(ToString::to_string).collect(),
            ..Image::default()
        };
        let hello = |version: &str| Image {
            env: BTreeMap::from([("SERVICE_VERSION".to_owned(), version.to_owned())]),
            ..own(&["sample", "helloworld"])
        };
        let shell = |command: &[&str]| Image {
            command: command.iter().map(ToString::to_string).collect(),
            ..Image::default()
        };
        let table = [
            ("tombolo/tombolo", own(&[])),
            ("istio/examples-helloworld-v1", hello("v1")),
            ("istio/examples-helloworld-v2", hello("v2")),
            ("curlimages/curl", shell(&["curl"])),
            ("metallb/controller", own(&["metallb", "controller"])),
            ("metallb/speaker", own(&["metallb", "speaker"])),
            ("busybox", shell(&["sh"])),
            ("alpine", shell(&["sh"])),
            ("debian", shell(&["bash"])),
            ("ubuntu", shell(&["bash"])),
        ];
        Self { table: table.into_iter().map(|(name, image)| (name.to_owned(), image)).collect() }
    }

    /// The built-in images and those of a file (`images: {NAME: {entrypoint, command, env, user}}`).
    ///
    /// # Errors
    /// When the file cannot be read or does not parse.
    pub(crate) fn with_file(path: Option<&Path>) -> Result<Self, ImagesError> {
        let mut images = Self::built_in();
        let Some(path) = path else { return Ok(images) };
        let read = |source| ImagesError::Read { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(read)?;
        let parse = |source| ImagesError::Parse { path: path.to_owned(), source: Box::new(source) };
        let file: File = serde_saphyr::from_str(&text).map_err(parse)?;
        images
            .table
            .extend(file.images.into_iter().map(|(name, image)| (plain(&name).to_owned(), image)));
        Ok(images)
    }

    /// The image that a container names.
    ///
    /// # Errors
    /// A text that names the image and the known ones.
    pub(crate) fn find(&self, reference: &str) -> Result<&Image, String> {
        self.table.get(plain(reference)).ok_or_else(|| {
            let known: Vec<&str> = self.table.keys().map(String::as_str).collect();
            format!(
                "image \"{reference}\" is not in the lab's table of images; it knows {} (`--images FILE` adds more)",
                known.join(", ")
            )
        })
    }
}

/// A reference without registry, `library/`, tag and digest.
fn plain(reference: &str) -> &str {
    let name = reference.split('@').next().unwrap_or(reference);
    let name = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    };
    let name = match name.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => rest,
        _ => name,
    };
    name.strip_prefix("library/").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_tag_and_digest_do_not_matter() {
        let names = [
            "docker.io/istio/examples-helloworld-v1:1.0",
            "quay.io/metallb/speaker:v0.13.10",
            "localhost:5000/a/b@sha256:00",
            "docker.io/library/busybox",
            "alpine:3",
        ];
        let plain: Vec<&str> = names.into_iter().map(plain).collect();
        assert_eq!(
            plain,
            ["istio/examples-helloworld-v1", "metallb/speaker", "a/b", "busybox", "alpine"]
        );
    }

    #[test]
    fn an_unknown_image_is_named_together_with_the_known_ones() {
        let error = Images::built_in().find("nginx:1.27").unwrap_err();
        assert!(error.starts_with("image \"nginx:1.27\" is not in the lab's table of images; it knows alpine, busybox, curlimages/curl,"), "{error}");
    }
}
