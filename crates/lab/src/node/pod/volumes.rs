//! A pod's volumes: folders on the node, filled and kept up to date.
//!
//! What comes from objects (ConfigMap, Secret, token, pod fields) is swapped in as a whole, so a
//! reader sees either all old or all new files.

pub(crate) mod content;
pub(crate) mod sub_path;
pub(crate) mod swap;

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource, Pod, Volume};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::node::Node;
use crate::node::pod::fields::{Facts, quantity};
use crate::node::pod::volumes::content::{Content, Tokens};

/// Why a pod's volume cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("MountVolume.SetUp failed for volume \"{volume}\": {text}")]
    Refused { volume: String, text: String },
    #[error("MountVolume.SetUp failed for volume \"{volume}\"")]
    Io { volume: String, source: io::Error },
}

/// The volumes of one pod.
#[derive(Debug)]
pub(crate) struct Volumes {
    folder: PathBuf,
    tokens: Tokens,
}

impl Volumes {
    pub(crate) fn new(pod_folder: &Path) -> Self {
        Self { folder: pod_folder.join("volumes"), tokens: Tokens::default() }
    }

    /// Where a volume's files are on the node.
    pub(crate) fn path(&self, volume: &Volume) -> PathBuf {
        match &volume.host_path {
            // Links are followed now: inside the container they would lead elsewhere.
            Some(host) => {
                fs::canonicalize(&host.path).unwrap_or_else(|_| PathBuf::from(&host.path))
            }
            None => self.folder.join(&volume.name),
        }
    }

    /// Makes every volume ready.
    pub(crate) async fn set_up(
        &mut self,
        node: &Node,
        pod: &Pod,
        facts: &Facts,
    ) -> Result<(), VolumeError> {
        for volume in volumes(pod) {
            let failed = |source| VolumeError::Io { volume: volume.name.clone(), source };
            if let Some(empty) = &volume.empty_dir {
                self.empty(volume, empty, group(pod)).map_err(failed)?;
            } else if let Some(host) = &volume.host_path {
                host_path(host)
                    .map_err(|text| VolumeError::Refused { volume: volume.name.clone(), text })?;
            }
        }
        self.refresh(node, pod, facts).await
    }

    /// Brings the volumes that are made from objects up to date.
    pub(crate) async fn refresh(
        &mut self,
        node: &Node,
        pod: &Pod,
        facts: &Facts,
    ) -> Result<(), VolumeError> {
        for volume in
            volumes(pod).filter(|volume| volume.empty_dir.is_none() && volume.host_path.is_none())
        {
            let refused = |text| VolumeError::Refused { volume: volume.name.clone(), text };
            let files: Content =
                content::of(node, pod, facts, volume, &mut self.tokens).await.map_err(refused)?;
            let failed = |source| VolumeError::Io { volume: volume.name.clone(), source };
            swap::write(&self.folder.join(&volume.name), &files, group(pod)).map_err(failed)?;
        }
        Ok(())
    }

    fn empty(
        &self,
        volume: &Volume,
        empty: &EmptyDirVolumeSource,
        group: Option<u32>,
    ) -> io::Result<()> {
        let path = self.folder.join(&volume.name);
        if path.exists() {
            return Ok(());
        }
        fs::create_dir_all(&path)?;
        if empty.medium.as_deref() == Some("Memory") {
            let size = empty
                .size_limit
                .as_ref()
                .and_then(|size| quantity(&size.0))
                .map(|size| size.div_ceil(1000));
            let options =
                size.map_or_else(|| "mode=777".to_owned(), |size| format!("mode=777,size={size}"));
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
            mount(Some("tmpfs"), &path, Some("tmpfs"), flags, Some(options.as_str()))?;
        }
        if group.is_some() {
            chown(&path, None, group)?;
        }
        let mode = if group.is_some() { 0o2777 } else { 0o777 };
        fs::set_permissions(&path, Permissions::from_mode(mode))
    }

    /// Removes everything, also what an earlier agent left behind.
    pub(crate) fn remove(&self) -> io::Result<()> {
        remove_folder(&self.folder)
    }
}

/// Removes a folder whose direct entries may be mounts.
pub(crate) fn remove_folder(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        match umount2(&entry?.path(), MntFlags::MNT_DETACH) {
            // Most are plain folders.
            Ok(()) | Err(nix::errno::Errno::EINVAL) => (),
            Err(error) => return Err(error.into()),
        }
    }
    fs::remove_dir_all(folder)
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten())
}

/// The group that owns the pod's volumes.
fn group(pod: &Pod) -> Option<u32> {
    let group = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

/// Checks, or makes, the folder or file that a `hostPath` names.
fn host_path(host: &HostPathVolumeSource) -> Result<(), String> {
    let path = Path::new(&host.path);
    let kind = host.type_.as_deref().unwrap_or_default();
    let make = |made: io::Result<()>| {
        made.map_err(|error| format!("hostPath {} could not be made: {error}", host.path))
    };
    match kind {
        "DirectoryOrCreate" => make(fs::create_dir_all(path))?,
        "FileOrCreate" if !path.exists() => {
            if let Some(parent) = path.parent() {
                make(fs::create_dir_all(parent))?;
            }
            make(fs::write(path, ""))?;
        }
        _ => (),
    }
    let found = fs::metadata(path).map_err(|error| format!("hostPath {}: {error}", host.path))?;
    let fits = match kind {
        "" | "Socket" | "CharDevice" | "BlockDevice" => true,
        "Directory" | "DirectoryOrCreate" => found.is_dir(),
        "File" | "FileOrCreate" => found.is_file(),
        other => return Err(format!("hostPath type {other} is not implemented")),
    };
    if fits {
        Ok(())
    } else {
        Err(format!("hostPath type check failed: {} is not a {kind}", host.path))
    }
}
