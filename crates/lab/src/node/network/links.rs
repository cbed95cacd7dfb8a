//! Links, addresses and routes of one network namespace, in the words this room needs.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use futures::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

/// What was being done to a link when the kernel refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("open a netlink socket")]
    Socket(#[source] io::Error),
    #[error("{doing}")]
    Refused { doing: String, source: rtnetlink::Error },
    #[error("write {path}")]
    Setting { path: String, source: io::Error },
    #[error("there is no link `{0}`")]
    NoLink(String),
}

trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, LinkError>;
}

impl<T> Doing<T> for Result<T, rtnetlink::Error> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, LinkError> {
        self.map_err(|source| LinkError::Refused { doing: what(), source })
    }
}

/// The links of the network namespace in which it was opened.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    handle: Handle,
}

impl Links {
    /// Opens the namespace of this thread. The connection ends with the last clone.
    pub(crate) fn open() -> Result<Self, LinkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(LinkError::Socket)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    pub(crate) async fn index(&self, name: &str) -> Result<u32, LinkError> {
        let found = self.handle.link().get().match_name(name).execute().try_next().await;
        let link = found.map_err(|_| LinkError::NoLink(name.to_owned()))?;
        link.map(|link| link.header.index).ok_or_else(|| LinkError::NoLink(name.to_owned()))
    }

    pub(crate) async fn add_veth(&self, name: &str, peer: &str) -> Result<(), LinkError> {
        let request = self.handle.link().add(LinkVeth::new(name, peer).build());
        request.execute().await.doing(|| format!("make the link {name}"))
    }

    /// Moves a link to another namespace, under another name.
    pub(crate) async fn hand_over(
        &self,
        index: u32,
        to: BorrowedFd<'_>,
        name: &str,
    ) -> Result<(), LinkError> {
        let change =
            LinkUnspec::new_with_index(index).setns_by_fd(to.as_raw_fd()).name(name).build();
        self.handle.link().set(change).execute().await.doing(|| format!("move {name} into the pod"))
    }

    pub(crate) async fn up(&self, index: u32) -> Result<(), LinkError> {
        let change = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(change).execute().await.doing(|| format!("set link {index} up"))
    }

    pub(crate) async fn delete(&self, index: u32) -> Result<(), LinkError> {
        self.handle.link().del(index).execute().await.doing(|| format!("remove link {index}"))
    }

    pub(crate) async fn add_address(&self, index: u32, address: Ipv4Net) -> Result<(), LinkError> {
        let request =
            self.handle.address().add(index, IpAddr::V4(address.addr()), address.prefix_len());
        request.replace().execute().await.doing(|| format!("add the address {address}"))
    }

    /// Removes an address from a link; one that is not there is fine.
    pub(crate) async fn remove_address(
        &self,
        index: u32,
        address: Ipv4Addr,
    ) -> Result<(), LinkError> {
        let found = self
            .handle
            .address()
            .get()
            .set_link_index_filter(index)
            .set_address_filter(IpAddr::V4(address));
        let found =
            found.execute().try_next().await.doing(|| format!("look for the address {address}"))?;
        let Some(message) = found else { return Ok(()) };
        self.handle
            .address()
            .del(message)
            .execute()
            .await
            .doing(|| format!("remove the address {address}"))
    }

    /// The addresses of a link.
    pub(crate) async fn addresses(&self, index: u32) -> Result<Vec<Ipv4Net>, LinkError> {
        let mut found = self.handle.address().get().set_link_index_filter(index).execute();
        let mut all = Vec::new();
        while let Some(message) = found.try_next().await.doing(|| "list addresses".to_owned())? {
            let prefix = message.header.prefix_len;
            all.extend(message.attributes.iter().filter_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(address)) => Ipv4Net::new(*address, prefix).ok(),
                _ => None,
            }));
        }
        Ok(all)
    }

    /// The link that has `address`, and the network it says the address is in.
    pub(crate) async fn link_with(
        &self,
        address: Ipv4Addr,
    ) -> Result<Option<(u32, Ipv4Net)>, LinkError> {
        let mut found =
            self.handle.address().get().set_address_filter(IpAddr::V4(address)).execute();
        let message = found.try_next().await.doing(|| format!("look for the address {address}"))?;
        Ok(message.and_then(|message| {
            let net = Ipv4Net::new(address, message.header.prefix_len).ok()?;
            Some((message.header.index, net.trunc()))
        }))
    }

    pub(crate) async fn name(&self, index: u32) -> Result<String, LinkError> {
        let found = self.handle.link().get().match_index(index).execute().try_next().await;
        let link = found.doing(|| format!("look up link {index}"))?;
        let name =
            link.into_iter().flat_map(|link| link.attributes).find_map(
                |attribute| match attribute {
                    LinkAttribute::IfName(name) => Some(name),
                    _ => None,
                },
            );
        name.ok_or_else(|| LinkError::NoLink(index.to_string()))
    }

    /// Tells the neighbours on a link that its addresses are here, by a gratuitous ARP that the
    /// kernel sends when a link that announces itself is given its own address again.
    pub(crate) async fn announce(&self, index: u32) -> Result<(), LinkError> {
        let found = self.handle.link().get().match_index(index).execute().try_next().await;
        let link = found.doing(|| format!("look up link {index}"))?;
        let (mut name, mut own) = (String::new(), None);
        for attribute in link.into_iter().flat_map(|link| link.attributes) {
            match attribute {
                LinkAttribute::IfName(found) => name = found,
                LinkAttribute::Address(address) => own = Some(address),
                _ => (),
            }
        }
        let Some(own) = own else { return Err(LinkError::NoLink(name)) };
        let path = format!("/proc/sys/net/ipv4/conf/{name}/arp_notify");
        std::fs::write(&path, "1").map_err(|source| LinkError::Setting { path, source })?;
        let change = LinkUnspec::new_with_index(index).address(own).build();
        self.handle
            .link()
            .set(change)
            .execute()
            .await
            .doing(|| format!("announce the addresses of {name}"))
    }

    /// Routes `to` out of a link, directly or by a gateway.
    pub(crate) async fn add_route(
        &self,
        index: u32,
        to: Ipv4Net,
        route: Route,
    ) -> Result<(), LinkError> {
        let builder = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to.network(), to.prefix_len())
            .output_interface(index);
        let builder = match route {
            Route::Direct => builder.scope(RouteScope::Link),
            Route::From(source) => builder.scope(RouteScope::Link).pref_source(source),
            Route::By(gateway) => builder.gateway(gateway),
        };
        let request = self.handle.route().add(builder.build()).replace();
        request.execute().await.doing(|| format!("route {to}"))
    }
}

/// How a route leads to its destination.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Route {
    /// The destination is on the link.
    Direct,
    /// The destination is on the link, and our packets come from this address.
    From(Ipv4Addr),
    /// The destination is behind this gateway.
    By(Ipv4Addr),
}
