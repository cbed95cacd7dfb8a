//! What a dead lab left behind: folders of clusters, and entries in users' kubeconfigs.
//!
//! The kernel removed everything else when the supervisor died.

use std::io;

use crate::kubeconfig;
use crate::lab::{Lab, LabError};

impl Lab {
    /// Removes the remains of a dead lab; does nothing while a supervisor lives.
    ///
    /// # Errors
    /// When a file cannot be changed or removed.
    pub async fn remove_remains(&self) -> Result<(), LabError> {
        if !self.settings.directory.path().exists() {
            return Ok(());
        }
        let directory = self.settings.directory.clone();
        let locked = tokio::task::spawn_blocking(move || directory.lock_start());
        let locked = locked.await.map_err(io::Error::other);
        let _starting = locked.flatten().map_err(|source| self.start_failed(source))?;
        if self.is_running()? { Ok(()) } else { self.remove_remains_locked().await }
    }

    /// The caller holds the right to start and has seen that no supervisor lives.
    pub(super) async fn remove_remains_locked(&self) -> Result<(), LabError> {
        let directory = &self.settings.directory;
        let clusters = directory.clusters();
        let failed = |source| LabError::File { path: clusters.clone(), source };
        for name in directory.cluster_names().map_err(failed)? {
            let folder = directory.cluster(&name);
            for file in folder.remembered_kubeconfigs().map_err(failed)? {
                kubeconfig::remove(&file, &name).await?;
            }
            std::fs::remove_dir_all(folder.path()).map_err(failed)?;
            tracing::info!(cluster = %name, "remains of a dead lab removed");
        }
        Ok(())
    }
}
