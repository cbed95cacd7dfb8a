//! The same requests to this server and to a real kube-apiserver.
