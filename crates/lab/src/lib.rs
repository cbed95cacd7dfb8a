//! Lab clusters: network, node agent, controllers, DNS, load-balancer addresses, faults.
//!
//! In reading order:
//!
//! * [`spec`]: what a cluster is asked to be;
//! * [`kind_config`]: the same from kind's own YAML;
//! * [`lab`]: the client. Starts the supervisor, creates, lists, breaks and deletes clusters;
//! * [`control`]: what the client and the supervisor say to each other;
//! * [`supervisor`]: the first process of a lab's namespaces, owner of everything in it;
//! * [`children`] and [`namespace`]: processes and the namespaces they run in;
//! * [`network`]: bridge, nodes, addresses, the way in from the host;
//! * [`directory`], [`pki`] and [`kubeconfig`]: a lab's files, certificates, and the files that
//!   lead users to a cluster;
//! * [`events`]: what happened to an object, for `kubectl describe`;
//! * [`controllers`]: what turns Deployments into pods, Services into endpoints, and so on;
//! * [`node`]: the node agent, which runs pods, answers Service addresses and names;
//! * [`wire`]: what crosses between clusters, seen from a node;
//! * [`metallb`]: what MetalLB's pods run;
//! * [`preflight`]: what the machine must have, checked before anything is created.

pub mod children;
pub mod control;
pub mod controllers;
pub mod directory;
pub mod events;
pub mod inspect;
pub mod kind_config;
pub mod kubeconfig;
pub mod lab;
pub mod metallb;
pub mod namespace;
pub mod network;
pub mod node;
pub mod pki;
pub mod preflight;
pub mod spec;
pub mod supervisor;
pub mod wire;
