//! Role-based access control: who may do what.

use std::net::IpAddr;

use ipnet::IpNet;
use tombolo_xds::proto::envoy::config::rbac::v3 as rbac_v3;
use tombolo_xds::proto::envoy::config::rbac::v3::permission::Rule;
use tombolo_xds::proto::envoy::config::rbac::v3::principal::Identifier;
use tombolo_xds::proto::envoy::config::rbac::v3::rbac::Action as ProtoAction;
use tombolo_xds::proto::envoy::r#type::matcher::v3::PathMatcher;
use tombolo_xds::proto::envoy::r#type::matcher::v3::path_matcher;

use crate::config::convert::range;
use crate::config::matchers::{HeadView, HeaderMatch, StringMatch};
use crate::config::problem::{At, Problem, each};

/// A set of policies with one action.
#[derive(Clone, Debug)]
pub struct Rbac {
    allow: bool,
    /// Sorted by name, so that the name in a log line does not change from run to run.
    policies: Vec<(String, Vec<Permission>, Vec<Principal>)>,
}

#[derive(Clone, Debug)]
enum Permission {
    All(Vec<Permission>),
    Any(Vec<Permission>),
    Always(bool),
    Header(HeaderMatch),
    Path(StringMatch),
    DestinationIp(IpNet),
    DestinationPort(u16, u16),
    Not(Box<Permission>),
    ServerName(StringMatch),
}

#[derive(Clone, Debug)]
enum Principal {
    All(Vec<Principal>),
    Any(Vec<Principal>),
    Always(bool),
    Authenticated(Option<StringMatch>),
    DirectIp(IpNet),
    RemoteIp(IpNet),
    Header(HeaderMatch),
    Path(StringMatch),
    Not(Box<Principal>),
}

/// What is asked for, and by whom.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// None on a TCP connection.
    pub head: Option<HeadView<'a>>,
    /// The identity in the client's certificate.
    pub peer: Option<&'a str>,
    pub server_name: &'a str,
    pub destination: (IpAddr, u16),
    pub direct: IpAddr,
    pub remote: IpAddr,
}

/// The answer, with the policy that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allowed,
    Denied { policy: String },
}

/// Reads a set of policies.
pub fn rbac(config: &rbac_v3::Rbac) -> Result<Rbac, Problem> {
    let allow = match config.action() {
        ProtoAction::Allow => true,
        ProtoAction::Deny => false,
        ProtoAction::Log => return Err(Problem::new("LOG is not supported").inside("action")),
    };
    let policy = |(name, policy): (&String, &rbac_v3::Policy)| {
        let read = || {
            let permissions = each("permissions", &policy.permissions, permission)?;
            Ok((name.clone(), permissions, each("principals", &policy.principals, principal)?))
        };
        read().at(format_args!("policies[{name}]"))
    };
    let mut policies = config.policies.iter().map(policy).collect::<Result<Vec<_>, _>>()?;
    policies.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(Rbac { allow, policies })
}

fn permission(config: &rbac_v3::Permission) -> Result<Permission, Problem> {
    let set = |set: &rbac_v3::permission::Set| each("rules", &set.rules, permission);
    let port = |port: u32| u16::try_from(port).map_err(|_| Problem::new("is not a port"));
    Ok(match config.rule.as_ref() {
        Some(Rule::AndRules(rules)) => Permission::All(set(rules).at("and_rules")?),
        Some(Rule::OrRules(rules)) => Permission::Any(set(rules).at("or_rules")?),
        Some(Rule::Any(any)) => Permission::Always(*any),
        Some(Rule::Header(header)) => Permission::Header(HeaderMatch::new(header).at("header")?),
        Some(Rule::UrlPath(matcher)) => Permission::Path(path(matcher).at("url_path")?),
        Some(Rule::DestinationIp(ip)) => Permission::DestinationIp(range(ip).at("destination_ip")?),
        Some(Rule::DestinationPort(number)) => {
            let number = port(*number).at("destination_port")?;
            Permission::DestinationPort(number, number)
        }
        Some(Rule::DestinationPortRange(range)) => {
            let bound = |bound: i32| u32::try_from(bound).unwrap_or(0);
            let start = port(bound(range.start)).at("destination_port_range.start")?;
            // The end is exclusive on the wire.
            let end = port(bound(range.end - 1)).at("destination_port_range.end")?;
            Permission::DestinationPort(start, end)
        }
        Some(Rule::NotRule(rule)) => Permission::Not(Box::new(permission(rule).at("not_rule")?)),
        Some(Rule::RequestedServerName(name)) => {
            Permission::ServerName(StringMatch::new(name).at("requested_server_name")?)
        }
        _ => return Err(Problem::new("is not supported")),
    })
}

#[expect(deprecated, reason = "control planes still send the older forms")]
fn principal(config: &rbac_v3::Principal) -> Result<Principal, Problem> {
    let set = |set: &rbac_v3::principal::Set| each("ids", &set.ids, principal);
    Ok(match config.identifier.as_ref() {
        Some(Identifier::AndIds(ids)) => Principal::All(set(ids).at("and_ids")?),
        Some(Identifier::OrIds(ids)) => Principal::Any(set(ids).at("or_ids")?),
        Some(Identifier::Any(any)) => Principal::Always(*any),
        Some(Identifier::Authenticated(who)) => {
            let name = who.principal_name.as_ref().map(StringMatch::new).transpose();
            Principal::Authenticated(name.at("principal_name").at("authenticated")?)
        }
        Some(Identifier::SourceIp(ip) | Identifier::DirectRemoteIp(ip)) => {
            Principal::DirectIp(range(ip).at("direct_remote_ip")?)
        }
        Some(Identifier::RemoteIp(ip)) => Principal::RemoteIp(range(ip).at("remote_ip")?),
        Some(Identifier::Header(header)) => {
            Principal::Header(HeaderMatch::new(header).at("header")?)
        }
        Some(Identifier::UrlPath(matcher)) => Principal::Path(path(matcher).at("url_path")?),
        Some(Identifier::NotId(id)) => Principal::Not(Box::new(principal(id).at("not_id")?)),
        _ => return Err(Problem::new("is not supported")),
    })
}

fn path(config: &PathMatcher) -> Result<StringMatch, Problem> {
    match config.rule.as_ref() {
        Some(path_matcher::Rule::Path(matcher)) => StringMatch::new(matcher).at("path"),
        None => Err(Problem::new("must be set").inside("path")),
    }
}

impl Rbac {
    /// Decides. A condition on HTTP never holds for a TCP connection.
    pub fn decide(&self, question: Question<'_>) -> Verdict {
        let fits = |(_, permissions, principals): &&(String, Vec<Permission>, Vec<Principal>)| {
            permissions.iter().any(|permission| permission.fits(question))
                && principals.iter().any(|principal| principal.fits(question))
        };
        match (self.policies.iter().find(fits), self.allow) {
            (Some(_), true) | (None, false) => Verdict::Allowed,
            (None, true) => Verdict::Denied { policy: "none".to_owned() },
            (Some((name, ..)), false) => Verdict::Denied { policy: name.clone() },
        }
    }
}

fn path_only(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or(path)
}

impl Permission {
    fn fits(&self, question: Question<'_>) -> bool {
        let head = question.head;
        match self {
            Self::All(all) => all.iter().all(|rule| rule.fits(question)),
            Self::Any(any) => any.iter().any(|rule| rule.fits(question)),
            Self::Always(always) => *always,
            Self::Header(header) => head.is_some_and(|head| header.matches(head)),
            Self::Path(text) => head.is_some_and(|head| text.matches(path_only(head.path))),
            Self::DestinationIp(range) => range.contains(&question.destination.0),
            Self::DestinationPort(start, end) => (*start..=*end).contains(&question.destination.1),
            Self::Not(rule) => !rule.fits(question),
            Self::ServerName(text) => text.matches(question.server_name),
        }
    }
}

impl Principal {
    fn fits(&self, question: Question<'_>) -> bool {
        let head = question.head;
        match self {
            Self::All(all) => all.iter().all(|id| id.fits(question)),
            Self::Any(any) => any.iter().any(|id| id.fits(question)),
            Self::Always(always) => *always,
            Self::Authenticated(None) => question.peer.is_some(),
            Self::Authenticated(Some(name)) => question.peer.is_some_and(|peer| name.matches(peer)),
            Self::DirectIp(range) => range.contains(&question.direct),
            Self::RemoteIp(range) => range.contains(&question.remote),
            Self::Header(header) => head.is_some_and(|head| header.matches(head)),
            Self::Path(text) => head.is_some_and(|head| text.matches(path_only(head.path))),
            Self::Not(id) => !id.fits(question),
        }
    }
}
