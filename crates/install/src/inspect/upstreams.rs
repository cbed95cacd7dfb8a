//! `proxy-config cluster`: the upstreams of a proxy, which Envoy calls clusters.

use serde_json::Value;

use crate::inspect::dump::{Dump, DumpError, origin, text};
use crate::inspect::subset_key::SubsetKey;
use crate::inspect::table::{Table, WIDE};

/// Which upstreams are shown; an empty field lets all pass.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// A part of the service's name.
    pub fqdn: String,
    pub port: u16,
    /// A part of the subset's name.
    pub subset: String,
    /// `inbound` or `outbound`.
    pub direction: String,
}

impl Filter {
    fn passes(&self, name: &str) -> bool {
        name.contains(&self.fqdn)
            && name.contains(&self.direction)
            && name.contains(&self.subset)
            && (self.port == 0 || name.contains(&format!("|{}|", self.port)))
    }
}

/// The upstreams that pass, sorted by service, subset, port and direction.
///
/// # Errors
/// When the dump has no upstreams at all.
pub fn list(dump: &Dump, filter: &Filter) -> Result<Vec<Value>, DumpError> {
    let lists = [("dynamicActiveClusters", "/cluster"), ("staticClusters", "/cluster")];
    let mut all = dump.messages("ClustersConfigDump", &lists)?;
    if all.is_empty() {
        return Err(DumpError::Empty("clusters"));
    }
    all.sort_by_cached_key(|upstream| SubsetKey::order(text(upstream, "/name")));
    all.retain(|upstream| filter.passes(text(upstream, "/name")));
    Ok(all)
}

/// The table; with `typed` each line starts with `cluster/NAME`.
pub fn table(upstreams: &[Value], typed: bool) -> String {
    let headings =
        ["NAME", "SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE"];
    let skipped = usize::from(!typed);
    let mut table = Table::new(WIDE, &headings[skipped..]);
    for upstream in upstreams {
        let name = text(upstream, "/name");
        let key = SubsetKey::parse(name);
        let dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        let (host, port, subset, direction) = match key {
            Some(key) => (key.host, key.port.to_string(), dash(key.subset), key.direction),
            None => (name.to_owned(), "-".to_owned(), "-".to_owned(), "-".to_owned()),
        };
        let kind = match text(upstream, "/type") {
            // The default of the enumeration, which JSON leaves out.
            "" => "STATIC",
            kind => kind,
        };
        let cells = [
            format!("cluster/{name}"),
            host,
            port,
            subset,
            direction,
            kind.to_owned(),
            origin(upstream),
        ];
        table.row(&cells[skipped..]);
    }
    table.finish()
}
