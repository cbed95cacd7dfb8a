//! A pod's network namespace.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ipnet::Ipv4Net;
use nix::sched::{CloneFlags, setns, unshare};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use crate::node::network::links::{LinkError, Links, Route};

/// Why a pod got no network.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    #[error("make a network namespace")]
    Namespace(#[source] io::Error),
    #[error("set sysctl `{name}`")]
    Sysctl { name: String, source: io::Error },
    #[error("sysctl `{0}` is not of the pod's network (only net.* can be set)")]
    ForbiddenSysctl(String),
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// A network namespace; gone when nobody holds it and nothing is in it.
#[derive(Clone, Debug)]
pub(crate) struct Namespace(Arc<OwnedFd>);

impl Namespace {
    /// Runs `work` on a thread inside the namespace.
    pub(crate) async fn inside<T, F>(&self, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let namespace = Arc::clone(&self.0);
        on_thread(move || {
            setns(&*namespace, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })
        .await
    }
}

/// A pod's network namespace with its `eth0`.
#[derive(Debug)]
pub(crate) struct Sandbox {
    namespace: Namespace,
    pub(crate) address: Ipv4Addr,
    link: String,
}

impl Sandbox {
    /// Makes the namespace and joins it to the node's by a veth pair.
    pub(crate) async fn new(
        node: &Links,
        uid: &str,
        address: Ipv4Addr,
        gateway: Ipv4Addr,
        sysctls: Vec<(String, String)>,
    ) -> Result<Self, SandboxError> {
        let namespace = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net").map(OwnedFd::from)
        });
        let namespace = Arc::new(namespace.await.map_err(SandboxError::Namespace)?);
        let link = link_name(uid);
        // A link of this name is left over from an agent that was killed a moment ago.
        if let Ok(index) = node.index(&link).await {
            node.delete(index).await?;
        }
        let peer = link.replacen("veth", "peer", 1);
        node.add_veth(&link, &peer).await?;
        node.hand_over(node.index(&peer).await?, namespace.as_fd(), "eth0").await?;
        let sandbox = Self { namespace: Namespace(namespace), address, link };
        let inner = sandbox.namespace.inside(move || configure(address, gateway, &sysctls)).await;
        inner.map_err(SandboxError::Namespace)??;
        let index = node.index(&sandbox.link).await?;
        node.add_address(index, gateway.into()).await?;
        node.up(index).await?;
        node.add_route(index, address.into(), Route::Direct).await?;
        Ok(sandbox)
    }

    pub(crate) fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.0.as_fd()
    }

    /// A handle for those who connect to what listens inside.
    pub(crate) fn handle(&self) -> Namespace {
        self.namespace.clone()
    }

    /// Takes the pod off the network.
    pub(crate) async fn remove(self, node: &Links) -> Result<(), SandboxError> {
        match node.index(&self.link).await {
            Ok(index) => Ok(node.delete(index).await?),
            // The kernel has already removed it together with its other end.
            Err(LinkError::NoLink(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The name of a pod's link in the node's namespace: at most 15 letters, unique.
fn link_name(uid: &str) -> String {
    let digest = Sha256::digest(uid.as_bytes());
    digest.iter().take(5).fold("veth".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

/// Sets up the namespace this thread is in.
fn configure(
    address: Ipv4Addr,
    gateway: Ipv4Addr,
    sysctls: &[(String, String)],
) -> Result<(), SandboxError> {
    for (name, value) in sysctls {
        if !name.starts_with("net.") && !name.starts_with("net/") {
            return Err(SandboxError::ForbiddenSysctl(name.clone()));
        }
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        fs::write(path, value)
            .map_err(|source| SandboxError::Sysctl { name: name.clone(), source })?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    runtime.map_err(SandboxError::Namespace)?.block_on(async {
        let links = Links::open()?;
        links.up(links.index("lo").await?).await?;
        let eth0 = links.index("eth0").await?;
        links.add_address(eth0, address.into()).await?;
        links.up(eth0).await?;
        links.add_route(eth0, gateway.into(), Route::Direct).await?;
        links.add_route(eth0, Ipv4Net::default(), Route::By(gateway)).await?;
        Ok(())
    })
}

/// Runs `work` on a thread of its own, whose namespaces may change because it ends afterwards.
async fn on_thread<T, F>(work: F) -> io::Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> io::Result<T> + Send + 'static,
{
    let (done, answer) = oneshot::channel();
    std::thread::Builder::new().name("namespace".into()).stack_size(256 << 10).spawn(
        move || {
            // Nobody waits any more only when the agent ends.
            let _unheard = done.send(work());
        },
    )?;
    answer.await.map_err(|_| io::Error::other("the thread in the namespace ended early"))?
}
