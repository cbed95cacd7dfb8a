//! Where a pod will run, as the webhook's URL says: `/inject/cluster/c2/net/n2/KEY/value`.

use std::collections::BTreeMap;

/// The cluster, the network and other environment that an injection URL carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub cluster: Option<String>,
    pub network: Option<String>,
    /// Other environment variables for the proxy.
    pub environment: BTreeMap<String, String>,
}

impl Place {
    /// Reads the part of the path after `/inject`. As in Istio, `--slash--` in a value stands for
    /// `/`, a key without a value is ignored, and `:ENV:` separates pairs `key=value` in the
    /// other form.
    pub fn parse(path: &str) -> Self {
        let path = path.trim_start_matches("/inject").trim_matches('/');
        let mut place = Self::default();
        if path.starts_with(":ENV:") {
            for pair in path.split(":ENV:").filter(|pair| !pair.is_empty()) {
                if let Some((key, value)) = pair.split_once('=') {
                    place.set(key, value.to_owned());
                }
            }
            return place;
        }
        let mut parts = path.split('/');
        while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
            place.set(key, value.replace("--slash--", "/"));
        }
        place
    }

    fn set(&mut self, key: &str, value: String) {
        match key {
            "" => (),
            "cluster" => self.cluster = Some(value),
            "net" => self.network = Some(value),
            // Names of variables are letters, digits and underscores; others could be anything.
            other if other.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => {
                self.environment.insert(other.to_ascii_uppercase(), value);
            }
            other => tracing::debug!(key = other, "injection URL has a key that is no variable"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(cluster: &str, network: &str, environment: &[(&str, &str)]) -> Place {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let pairs = environment.iter().map(|(key, value)| ((*key).into(), (*value).into()));
        Place { cluster: some(cluster), network: some(network), environment: pairs.collect() }
    }

    #[test]
    fn the_path_says_cluster_network_and_environment() {
        for (path, want) in [
            ("/inject", place("", "", &[])),
            ("/inject/", place("", "", &[])),
            ("/inject/cluster/cluster02/net/network2", place("cluster02", "network2", &[])),
            ("/inject/cluster/cluster02/net/network2/", place("cluster02", "network2", &[])),
            ("/inject/net/a--slash--b/odd", place("", "a/b", &[])),
            ("/inject/foo/bar", place("", "", &[("FOO", "bar")])),
            (
                "/inject/:ENV:cluster=c1:ENV:net=n1:ENV:foo=a/b",
                place("c1", "n1", &[("FOO", "a/b")]),
            ),
        ] {
            assert_eq!(Place::parse(path), want, "{path}");
        }
    }
}
