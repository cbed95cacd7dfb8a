//! Network namespaces, and threads that work inside them.
//!
//! Namespaces belong to threads, so whatever enters one does so on a thread of its own that ends
//! afterwards; a thread of the async runtime never changes its namespace.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::net::TcpStream;

/// Where `ip netns` looks for names. The lab's mount namespace has a `/run` of its own.
const NAMES: &str = "/run/netns";

/// A network namespace with a name. Cheap to clone; it lives until [`NetNamespace::remove`] and
/// the end of its last process.
#[derive(Clone, Debug)]
pub struct NetNamespace {
    path: PathBuf,
    file: Arc<File>,
}

impl NetNamespace {
    /// Makes a namespace and gives it a name.
    ///
    /// # Errors
    /// When the kernel refuses, or the name is taken.
    pub fn make(name: &str) -> io::Result<Self> {
        let path = Path::new(NAMES).join(name);
        fs::create_dir_all(NAMES)?;
        File::create_new(&path)?;
        let made = on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let own = Some("/proc/thread-self/ns/net");
            mount(own, &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            Ok(())
        });
        if let Err(error) = made {
            fs::remove_file(&path)?;
            return Err(error);
        }
        let file = Arc::new(File::open(&path)?);
        Ok(Self { path, file })
    }

    /// The namespace's name in the file system, as `ip link set … netns` takes it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the name away; without processes inside, that ends the namespace.
    ///
    /// # Errors
    /// When the name is not there any more.
    pub fn remove(&self) -> io::Result<()> {
        umount2(&self.path, MntFlags::MNT_DETACH)?;
        fs::remove_file(&self.path)
    }

    /// Runs `work` on a thread inside the namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or `work` fails.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        on_own_thread(|| {
            self.enter()?;
            work()
        })
    }

    /// Moves the calling thread into the namespace, for good.
    pub(crate) fn enter(&self) -> io::Result<()> {
        Ok(setns(&*self.file, CloneFlags::CLONE_NEWNET)?)
    }

    /// Connects to `address` from inside the namespace.
    ///
    /// # Errors
    /// When nobody answers there.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let namespace = self.clone();
        // A socket stays in the namespace it was made in, whoever uses it later.
        let socket = tokio::task::spawn_blocking(move || {
            namespace.run(|| {
                let kind = socket2::Type::STREAM;
                socket2::Socket::new(socket2::Domain::for_address(address), kind, None)
            })
        })
        .await
        .map_err(io::Error::other)??;
        socket.set_nonblocking(true)?;
        tokio::net::TcpSocket::from_std_stream(socket.into()).connect(address).await
    }
}

/// Runs `work` on a thread that ends with it.
pub(crate) fn on_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("namespace".into()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("a namespace thread panicked")))
    })
}
