//! `version`: of this program, of control planes and of proxies.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::inspect::status::Proxy;

/// What is known of how a program was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BuildInfo {
    pub version: String,
    pub revision: String,
    /// The version of Go; empty where the program is not written in it.
    pub golang_version: String,
    pub status: String,
    pub tag: String,
}

impl BuildInfo {
    /// This program. What the build was not told is unknown.
    pub fn own() -> Self {
        let or_unknown = |value: Option<&str>| value.unwrap_or("unknown").to_owned();
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: or_unknown(option_env!("TOMBOLO_BUILD_REVISION")),
            golang_version: String::new(),
            status: or_unknown(option_env!("TOMBOLO_BUILD_STATUS")),
            tag: or_unknown(option_env!("TOMBOLO_BUILD_TAG")),
        }
    }

    /// Reads what a control plane answers to `/version`: `VERSION` or `VERSION-REVISION-STATUS`.
    pub fn parse(text: &str) -> Self {
        let mut parts: Vec<&str> = text.trim().split('-').collect();
        let (status, revision) = match parts.len() {
            3.. => (parts.pop().unwrap_or_default(), parts.pop().unwrap_or_default()),
            _ => ("", ""),
        };
        Self {
            version: parts.join("-"),
            revision: revision.to_owned(),
            golang_version: String::new(),
            status: status.to_owned(),
            tag: String::new(),
        }
    }

    /// In the words of Istio's tools.
    fn long(&self) -> String {
        let Self { version, revision, golang_version, status, tag } = self;
        format!(
            "version.BuildInfo{{Version:{version:?}, GitRevision:{revision:?}, GolangVersion:{golang_version:?}, BuildStatus:{status:?}, GitTag:{tag:?}}}"
        )
    }
}

/// One control plane.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServerInfo {
    pub component: String,
    pub revision: String,
    pub info: BuildInfo,
}

/// One proxy.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProxyInfo {
    #[serde(rename = "ID")]
    pub id: String,
    pub istio_version: String,
    /// `sidecar` or `gateway`.
    pub r#type: String,
}

impl From<&Proxy> for ProxyInfo {
    fn from(proxy: &Proxy) -> Self {
        let kind = match proxy.proxy_type.as_str() {
            "router" => "gateway",
            other => other,
        };
        let (id, istio_version) = (proxy.id.clone(), proxy.version.clone());
        Self { id, istio_version, r#type: kind.to_owned() }
    }
}

/// Everything; what was not asked for or did not answer is left out.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Versions {
    pub client_version: BuildInfo,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_version: Option<Vec<ServerInfo>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_plane_version: Option<Vec<ProxyInfo>>,
}

impl Versions {
    /// A line for each kind of program.
    pub fn short(&self) -> String {
        let mut out = format!("client version: {}\n", self.client_version.version);
        let mut line = |text: String| out.push_str(&(text + "\n"));
        let servers = self.mesh_version.as_deref().unwrap_or_default();
        match servers {
            [first, rest @ ..] if rest.iter().all(|it| it.info.version == first.info.version) => {
                line(format!("control plane version: {}", first.info.version));
            }
            all => {
                for it in all {
                    line(format!("{} version: {}", it.component, it.info.version));
                }
            }
        }
        if let Some(proxies) = &self.data_plane_version {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for proxy in proxies {
                *counts.entry(&proxy.istio_version).or_default() += 1;
            }
            let counts = counts.iter().map(|(version, n)| format!("{version} ({n} proxies)"));
            let counts = counts.collect::<Vec<_>>().join(", ");
            let counts = if counts.is_empty() { "none".to_owned() } else { counts };
            line(format!("data plane version: {counts}"));
        }
        out
    }

    /// A line for each program.
    pub fn long(&self) -> String {
        let mut out = format!("client version: {}\n", self.client_version.long());
        for it in self.mesh_version.iter().flatten() {
            writeln!(out, "{} version: {}", it.component, it.info.long()).unwrap_or_default();
        }
        for ProxyInfo { id, istio_version, r#type } in self.data_plane_version.iter().flatten() {
            writeln!(
                out,
                "data plane version: version.ProxyInfo{{ID:{id:?}, IstioVersion:{istio_version:?}, Type:{:?}}}",
                r#type
            )
            .unwrap_or_default();
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_end() {
        let info = BuildInfo::parse("1.30-alpha.1-0123abc-Clean\n");
        assert_eq!(
            (info.version.as_str(), info.revision.as_str(), info.status.as_str()),
            ("1.30-alpha.1", "0123abc", "Clean")
        );
        assert_eq!(BuildInfo::parse("0.1.0").version, "0.1.0");
    }
}
