//! Logs and commands: a stand-in for a node's kubelet, and clients on the other side.
