//! Lab clusters: network, node agent, controllers, DNS, load-balancer addresses, faults.
