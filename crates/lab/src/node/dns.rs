//! Cluster DNS: names of services and pods, from the cluster's own objects.
//!
//! [`names`] answers (pure); this file listens. Nothing is forwarded: a name outside the cluster
//! does not exist.

pub(crate) mod names;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Header, HeaderCounts, Metadata, OpCode, ResponseCode};
use hickory_server::proto::rr::rdata::{A, CNAME, PTR, SOA, SRV};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};

use crate::node::dns::names::{Answer, Data, Kind, View};
use crate::node::{Node, NodeError};

/// How long an answer may be remembered.
const TTL: u32 = 5;

/// How long a TCP connection may be silent.
const IDLE: Duration = Duration::from_secs(10);

/// Answers that may wait on one TCP connection.
const WAITING: usize = 32;

/// The sockets of cluster DNS.
#[derive(Debug)]
pub(crate) struct Listening {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

/// Listens on the DNS service's address and on the node's own.
pub(crate) async fn bind(node: &Node) -> Result<Listening, NodeError> {
    let settings = &node.settings;
    let lo = node.links.index("lo").await?;
    node.links.add_address(lo, settings.cluster_dns.into()).await?;
    let failed = |address: SocketAddr| {
        move |source| NodeError::Io { doing: format!("listen on {address} for DNS"), source }
    };
    let mut listening = Listening { udp: Vec::new(), tcp: Vec::new() };
    for ip in [settings.cluster_dns, settings.node_ip] {
        let address = SocketAddr::from((ip, 53));
        listening.udp.push(UdpSocket::bind(address).await.map_err(failed(address))?);
        listening.tcp.push(TcpListener::bind(address).await.map_err(failed(address))?);
    }
    Ok(listening)
}

/// Answers until the process drains.
pub(crate) async fn run(node: Arc<Node>, listening: Listening) {
    let shutdown = node.shutdown.clone();
    let mut server = Server::new(Answering { node });
    for socket in listening.udp {
        server.register_socket(socket);
    }
    for listener in listening.tcp {
        server.register_listener(listener, IDLE, WAITING);
    }
    let ended = tokio::select! {
        ended = server.block_until_done() => ended,
        () = shutdown.draining() => return,
    };
    if let Err(error) = ended {
        tracing::error!(%error, "cluster DNS ended");
    }
}

struct Answering {
    node: Arc<Node>,
}

impl RequestHandler for Answering {
    fn handle_request<'a, 'b, 'c, R, T>(
        &'a self,
        request: &'b Request,
        mut response: R,
    ) -> Pin<Box<dyn Future<Output = ResponseInfo> + Send + 'c>>
    where
        R: ResponseHandler + 'c,
        T: Time + 'c,
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(async move {
            let mut metadata = Metadata::response_from_request(&request.metadata);
            let (mut answers, mut soa, mut more) = (Vec::new(), Vec::new(), Vec::new());
            match request.request_info() {
                Ok(info) if request.metadata.op_code == OpCode::Query => {
                    let name = info.query.original().name();
                    let text = name.to_ascii().to_ascii_lowercase();
                    let answer = self.answer(&text, info.query.query_type());
                    metadata.authoritative = true;
                    metadata.response_code =
                        if answer.exists { ResponseCode::NoError } else { ResponseCode::NXDomain };
                    answers = records(name, &answer.data);
                    more = records(name, &answer.additional);
                    if answers.is_empty() {
                        soa.extend(start_of_authority(&self.node.settings.cluster_domain));
                    }
                }
                Ok(_) => metadata.response_code = ResponseCode::NotImp,
                Err(_) => metadata.response_code = ResponseCode::FormErr,
            }
            let builder = MessageResponseBuilder::from_message_request(request);
            let message = builder.build(
                metadata,
                answers.iter(),
                std::iter::empty(),
                soa.iter(),
                more.iter(),
            );
            match response.send_response(message).await {
                Ok(info) => info,
                Err(error) => {
                    tracing::debug!(%error, "DNS answer could not be sent");
                    ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
                }
            }
        })
    }
}

impl Answering {
    fn answer(&self, name: &str, kind: RecordType) -> Answer {
        let cluster = &self.node.cluster;
        let (services, slices) = (cluster.services.state(), cluster.slices.state());
        let view = View {
            domain: &self.node.settings.cluster_domain,
            services: &services,
            slices: &slices,
        };
        let kind = match kind {
            RecordType::A => Kind::A,
            RecordType::SRV => Kind::Srv,
            RecordType::PTR => Kind::Ptr,
            RecordType::CNAME => Kind::Cname,
            RecordType::ANY => Kind::Any,
            _ => Kind::Other,
        };
        names::answer(&view, name, kind)
    }
}

/// The records of an answer to a question about `asked`.
fn records(asked: &Name, data: &[(Option<String>, Data)]) -> Vec<Record> {
    let name = |text: &str| Name::from_str(&format!("{}.", text.trim_end_matches('.'))).ok();
    data.iter()
        .filter_map(|(owner, data)| {
            let data = match data {
                Data::Address(ip) => RData::A(A(*ip)),
                Data::Alias(target) => RData::CNAME(CNAME(name(target)?)),
                Data::Pointer(target) => RData::PTR(PTR(name(target)?)),
                Data::Port { port, target, weight } => {
                    RData::SRV(SRV::new(0, *weight, *port, name(target)?))
                }
            };
            let owner = match owner {
                Some(owner) => name(owner)?,
                None => asked.clone(),
            };
            Some(Record::from_rdata(owner, TTL, data))
        })
        .collect()
}

fn start_of_authority(domain: &str) -> Option<Record> {
    let zone = Name::from_str(&format!("{domain}.")).ok()?;
    let server = Name::from_str(&format!("ns.dns.{domain}.")).ok()?;
    let owner = Name::from_str(&format!("hostmaster.{domain}.")).ok()?;
    Some(Record::from_rdata(
        zone,
        TTL,
        RData::SOA(SOA::new(server, owner, 1, 7200, 1800, 86400, TTL)),
    ))
}

/// The address of a query name under `in-addr.arpa`.
pub(crate) fn reversed(name: &str) -> Option<Ipv4Addr> {
    let text = name.trim_end_matches('.').strip_suffix(".in-addr.arpa")?;
    let mut parts: Vec<u8> =
        text.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    parts.reverse();
    <[u8; 4]>::try_from(parts).ok().map(Ipv4Addr::from)
}
