//! What every request works with.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tombolo_runtime::shutdown::Shutdown;

use crate::auth::{Authenticator, Authorizer};
use crate::crd::known::Known;
use crate::dial::Client;
use crate::resources::Catalog;
use crate::settings::Settings;
use crate::store::Store;

/// The state of the server, shared by all requests.
#[derive(Debug)]
pub struct Api {
    pub settings: Settings,
    pub store: Store,
    pub catalog: ArcSwap<Catalog>,
    pub authenticator: Authenticator,
    pub authorizer: Authorizer,
    pub kubelet: Client,
    pub shutdown: Shutdown,
    /// Held while a Service's address is chosen and stored.
    pub services: Arc<tokio::sync::Mutex<()>>,
    /// Held while the catalog is made anew.
    pub definitions: tokio::sync::Mutex<Known>,
    /// Definitions whose objects are being deleted.
    pub cleanups: Mutex<HashSet<String>>,
    /// The port clients reach; settled when the listener is bound.
    pub port: u16,
}
