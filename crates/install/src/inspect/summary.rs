//! `proxy-config all`: every table of one dump.

use std::time::SystemTime;

use crate::inspect::dump::{Dump, DumpError};
use crate::inspect::{bootstrap, endpoints, listeners, routes, secrets, upstreams};

/// Which parts of the tables are shown.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    pub upstreams: upstreams::Filter,
    pub listeners: listeners::Filter,
    /// The name of one route table.
    pub route: String,
    pub endpoints: endpoints::Filter,
    /// A line for each filter chain and route.
    pub verbose: bool,
}

/// All tables, with a title before each if `titled`.
///
/// # Errors
/// When the dump lacks a section.
pub fn tables(
    dump: &Dump,
    filters: &Filters,
    now: SystemTime,
    titled: bool,
) -> Result<String, DumpError> {
    let verbose = filters.verbose;
    let parts = [
        ("BOOTSTRAP INFO", bootstrap::table(dump)?),
        ("CLUSTER INFO", upstreams::table(&upstreams::list(dump, &filters.upstreams)?, true)),
        (
            "LISTENER INFO",
            listeners::table(&listeners::list(dump, &filters.listeners)?, verbose, true),
        ),
        ("ROUTE INFO", routes::table(&routes::list(dump, &filters.route)?, verbose, true)),
        ("SECRET INFO", secrets::table(&secrets::list(dump)?, now, true)),
        (
            "ENDPOINTS INFO",
            endpoints::assignments_table(&endpoints::assignments(dump, &filters.endpoints)?, true),
        ),
    ];
    let part = |(title, text): &(&str, String)| {
        if titled { format!("------ {title} ------\n\n{text}") } else { text.clone() }
    };
    Ok(parts.iter().map(part).collect::<Vec<_>>().join("\n"))
}
