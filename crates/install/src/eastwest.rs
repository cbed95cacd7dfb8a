//! The east-west gateway's IstioOperator document: what `gen-eastwest-gateway.sh` prints.

use std::fmt::Write;

use serde_json::Value;

/// What the document depends on.
#[derive(Clone, Debug)]
pub struct EastWest {
    /// The network behind the gateway; nothing for a gateway of a single cluster.
    pub network: Option<String>,
    pub revision: Option<String>,
}

impl EastWest {
    /// The document, as YAML.
    pub fn document(&self) -> String {
        let network = self.network.as_deref().map(scalar);
        let mut text = String::from(
            "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nmetadata:\n  name: eastwest\nspec:\n",
        );
        if let Some(revision) = &self.revision {
            let _ = writeln!(text, "  revision: {}", Value::from(revision.as_str()));
        }
        text.push_str(
            "  profile: empty\n  components:\n    ingressGateways:\n      - name: istio-eastwestgateway\n        label:\n          istio: eastwestgateway\n          app: istio-eastwestgateway\n",
        );
        if let Some(network) = &network {
            let _ = writeln!(text, "          topology.istio.io/network: {network}");
        }
        text.push_str("        enabled: true\n        k8s:\n");
        if let Some(network) = &network {
            let _ = write!(
                text,
                "          env:\n            # traffic through this gateway should be routed inside the network\n            - name: ISTIO_META_REQUESTED_NETWORK_VIEW\n              value: {network}\n"
            );
        }
        text.push_str("          service:\n            ports:\n");
        for (name, port) in
            [("status-port", 15021), ("tls", 15443), ("tls-istiod", 15012), ("tls-webhook", 15017)]
        {
            let _ = write!(
                text,
                "              - name: {name}\n                port: {port}\n                targetPort: {port}\n"
            );
        }
        text.push_str("  values:\n    gateways:\n      istio-ingressgateway:\n        injectionTemplate: gateway\n");
        if let Some(network) = &network {
            let _ = write!(text, "    global:\n      network: {network}\n");
        }
        text
    }
}

/// A text as YAML: as it is where it can only be read as a text, quoted elsewhere.
fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_word = text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(plain);
    let means_more = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    if is_word && !means_more.contains(&text.to_ascii_lowercase().as_str()) {
        text.to_owned()
    } else {
        Value::from(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_names_its_network_and_revision() {
        let both =
            EastWest { network: Some("network1".to_owned()), revision: Some("canary".to_owned()) };
        insta::assert_snapshot!(both.document());
        let odd = EastWest { network: Some("1\n  x: y".to_owned()), revision: None };
        assert!(odd.document().contains(r#"topology.istio.io/network: "1\n  x: y""#));
        let neither = EastWest { network: None, revision: None };
        insta::assert_snapshot!(neither.document());
    }
}
