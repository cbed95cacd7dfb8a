//! What the client and the supervisor say to each other on the lab's control socket.
//!
//! A connection carries one request and its answers, each a length (four bytes, big endian) and
//! a JSON document. File descriptors (the listener of a new cluster, the standard streams of a
//! command) travel with the first byte of the request. Both ends are the same binary, so the
//! format has no versions; the socket lies in a folder that only its owner may enter.

pub mod frames;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::spec::{ApiServerKind, ClusterName, ClusterSpec, NodeRole};

/// What a client asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Make a cluster; the listener that leads to its API server comes along.
    Create {
        spec: Box<ClusterSpec>,
        /// The folder of the real Kubernetes programs, when they are asked for.
        kubernetes: Option<PathBuf>,
        /// The addresses that the listener has on the host, as users are told.
        server: String,
    },
    /// Remove a cluster and all it has.
    Delete(ClusterName),
    /// Describe all clusters.
    List,
    /// Run a command in a node's view; its standard streams come along.
    Exec { node: String, command: Vec<String>, user_environment: Vec<(String, String)> },
    /// Give every node of each cluster routes to the pods and Services of the other.
    Join(ClusterName, ClusterName),
    /// Take these routes away.
    Part(ClusterName, ClusterName),
    /// Let no packet pass between two clusters, in either direction.
    Partition(ClusterName, ClusterName),
    /// Delay what a cluster's nodes send.
    Delay { cluster: ClusterName, milliseconds: u32, jitter: u32, loss_percent: u32 },
    /// Undo all partitions and delays.
    Heal,
    /// Kill a process of a cluster at once; it starts again by itself.
    Kill { cluster: ClusterName, process: String },
}

/// What the supervisor answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Done,
    /// One cluster, as made.
    Cluster(Box<ClusterState>),
    /// All clusters, sorted by name.
    Clusters(Vec<ClusterState>),
    /// The command ended with this code.
    Exited(i32),
    /// The lab just ended with its last cluster; a new one has to be started.
    Ending,
    /// It was refused or failed: what happened, to what, and what to do.
    Failed(String),
}

/// A cluster as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// What was asked for.
    pub spec: ClusterSpec,
    /// The API server's URL on the host, as in the user's kubeconfig.
    pub server: String,
    /// Its folder in the lab folder: certificates, kubeconfigs, logs, data.
    pub folder: PathBuf,
    /// Its nodes, the control plane first.
    pub nodes: Vec<NodeState>,
    /// Its processes.
    pub processes: Vec<ProcessState>,
}

impl ClusterState {
    /// The cluster's name.
    pub fn name(&self) -> &ClusterName {
        &self.spec.name
    }

    /// Which program serves the API.
    pub fn api_server(&self) -> ApiServerKind {
        self.spec.api_server
    }

    /// The node that carries the API server.
    pub fn control_plane(&self) -> Option<&NodeState> {
        self.nodes.iter().find(|node| node.role == NodeRole::ControlPlane)
    }

    /// The API server's URL on the bridge, as other clusters reach it.
    pub fn internal_server(&self) -> Option<String> {
        let address = self.control_plane()?.address;
        Some(format!("https://{address}:{}", crate::spec::API_SERVER_PORT))
    }
}

/// A node as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// Its name, `CLUSTER-control-plane` or `CLUSTER-workerN`.
    pub name: String,
    /// What it is for.
    pub role: NodeRole,
    /// Its address on the bridge.
    pub address: Ipv4Addr,
    /// Its hardware address on the bridge.
    pub mac: String,
    /// Its share of the cluster's pod subnet.
    pub pod_subnet: Ipv4Net,
}

/// A process of a cluster as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessState {
    /// What it is: `api-server`, `etcd`, `controllers`, `node/NAME`…
    pub name: String,
    /// Its id in the lab's process namespace; none between two starts.
    pub pid: Option<i32>,
    /// How many times it was started again.
    pub restarts: u32,
    /// How it ended the last time.
    pub last_end: Option<String>,
}
