//! Addresses and node ports of Services: chosen from the free ones, kept on update, refused when
//! another Service has them. The caller holds the allocation lock until the Service is stored.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use rand::RngExt;
use serde_json::{Value, json};

use crate::object;
use crate::operation::Operation;
use crate::status::{Cause, Status};
use crate::store::Stored;

const NODE_PORTS: std::ops::RangeInclusive<i64> = 30000..=32767;

/// Fills in and checks a Service's addresses, families and node ports.
///
/// # Errors
/// 422 when a wanted value is taken, 500 when none is left.
pub fn allocate(operation: &Operation, new: &mut Value, old: Option<&Value>) -> Result<(), Status> {
    let name = object::name(new).to_owned();
    let others = Others::read(operation, &name);
    if let Some(old) = old {
        keep(new, old);
    }
    families(operation, new, old);
    address(operation, new, &others)?;
    node_ports(new, &others, &name)
}

/// What other Services use.
struct Others {
    addresses: HashSet<String>,
    ports: HashSet<i64>,
}

impl Others {
    fn read(operation: &Operation, name: &str) -> Self {
        let own = operation.key(name);
        let list = operation.api.store.list(&operation.resource.storage, None);
        let mut others = Self { addresses: HashSet::new(), ports: HashSet::new() };
        let foreign =
            list.objects.iter().filter(|stored: &&std::sync::Arc<Stored>| stored.key != own);
        for stored in foreign {
            let spec = &stored.value["spec"];
            others.addresses.extend(object::strings(&spec["clusterIPs"]));
            let ports = spec["ports"].as_array().into_iter().flatten();
            others.ports.extend(ports.filter_map(|port| port["nodePort"].as_i64()));
            others.ports.extend(spec["healthCheckNodePort"].as_i64());
        }
        others
    }
}

fn text<'a>(spec: &'a Value, field: &str) -> &'a str {
    spec[field].as_str().unwrap_or_default()
}

fn ports_mut(spec: &mut Value) -> impl Iterator<Item = &mut Value> {
    spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten()
}

fn has_address(spec: &Value) -> bool {
    text(spec, "type") != "ExternalName"
}

fn has_node_ports(spec: &Value) -> bool {
    text(spec, "type") == "NodePort"
        || (text(spec, "type") == "LoadBalancer"
            && spec["allocateLoadBalancerNodePorts"].as_bool() != Some(false))
}

/// Takes over from the old state what the new one leaves open, and drops what no longer applies.
fn keep(new: &mut Value, old: &Value) {
    let before = old["spec"].clone();
    let was_open = ["NodePort", "LoadBalancer"].contains(&text(&before, "type"));
    let Some(spec) = new.get_mut("spec") else { return };
    if has_address(&before) && has_address(spec) {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if spec[field].is_null() || spec[field] == "" {
                spec[field] = before[field].clone();
            }
        }
    } else if has_address(&before) {
        for field in
            ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]
        {
            if spec[field] == before[field] {
                object::remove(spec, field);
            }
        }
    }
    let keeps_ports = was_open && has_node_ports(spec);
    let is_open = ["NodePort", "LoadBalancer"].contains(&text(spec, "type"));
    if was_open && !is_open {
        for field in
            ["externalTrafficPolicy", "healthCheckNodePort", "allocateLoadBalancerNodePorts"]
        {
            object::remove(spec, field);
        }
    }
    let known: Vec<Value> = before["ports"].as_array().cloned().unwrap_or_default();
    for port in ports_mut(spec) {
        let same = known.iter().find(|have| {
            have["name"] == port["name"]
                || (have["port"] == port["port"] && have["protocol"] == port["protocol"])
        });
        let Some(same) = same else { continue };
        if keeps_ports && port["nodePort"].is_null() && !same["nodePort"].is_null() {
            port["nodePort"] = same["nodePort"].clone();
        } else if was_open && !is_open && port["nodePort"] == same["nodePort"] {
            object::remove(port, "nodePort");
        }
    }
    if text(spec, "type") != "LoadBalancer" {
        object::child(new, "status").insert("loadBalancer".to_owned(), json!({}));
    }
}

fn families(operation: &Operation, new: &mut Value, old: Option<&Value>) {
    let spec = &mut new["spec"];
    if !has_address(spec) {
        return;
    }
    if spec["clusterIPs"].is_null() && !text(spec, "clusterIP").is_empty() {
        spec["clusterIPs"] = json!([spec["clusterIP"]]);
    }
    let headless = spec["clusterIP"] == "None";
    let selectorless = spec["selector"].as_object().is_none_or(serde_json::Map::is_empty);
    if spec["ipFamilyPolicy"].is_null() {
        let dual = headless && selectorless && old.is_none();
        let policy = if dual { "RequireDualStack" } else { "SingleStack" };
        spec["ipFamilyPolicy"] = policy.into();
    }
    if spec["ipFamilies"].as_array().is_none_or(Vec::is_empty) {
        let (own, other) = match operation.api.settings.service_cluster_ip_range {
            IpNet::V4(_) => ("IPv4", "IPv6"),
            IpNet::V6(_) => ("IPv6", "IPv4"),
        };
        let dual = headless && selectorless && spec["ipFamilyPolicy"] != "SingleStack";
        spec["ipFamilies"] = if dual { json!([own, other]) } else { json!([own]) };
    }
}

fn address(operation: &Operation, new: &mut Value, others: &Others) -> Result<(), Status> {
    let name = object::name(new).to_owned();
    let spec = &mut new["spec"];
    if !has_address(spec) {
        return Ok(());
    }
    let range = operation.api.settings.service_cluster_ip_range;
    match text(spec, "clusterIP") {
        "None" => (),
        "" => {
            let address = free(range, &others.addresses)
                .ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))?;
            spec["clusterIP"] = address.clone().into();
            spec["clusterIPs"] = json!([address]);
        }
        wanted => check(range, wanted, others).map_err(|why| {
            refuse(
                &name,
                "spec.clusterIPs",
                &format!("Invalid value: [\"{wanted}\"]: failed to allocate IP {wanted}: {why}"),
            )
        })?,
    }
    Ok(())
}

fn check(range: IpNet, wanted: &str, others: &Others) -> Result<(), String> {
    let Ok(address) = wanted.parse::<IpAddr>() else { return Ok(()) };
    if !range.contains(&address) {
        return Err("the provided network does not match the current range".to_owned());
    }
    if others.addresses.contains(wanted) {
        return Err("provided IP is already allocated".to_owned());
    }
    Ok(())
}

/// A free address, from the upper part of the range first: the lower is for addresses people choose.
fn free(range: IpNet, taken: &HashSet<String>) -> Option<String> {
    let (first, size) = match range {
        IpNet::V4(net) => (u128::from(u32::from(net.network())), 1_u128 << (32 - net.prefix_len())),
        IpNet::V6(net) => (u128::from(net.network()), 1_u128 << (128 - net.prefix_len()).min(16)),
    };
    let usable = size.checked_sub(2)?;
    let reserved = (size / 16).clamp(16, 256).min(usable / 2);
    let at = |offset: u128| -> Option<String> {
        let number = first + 1 + offset;
        Some(match range {
            IpNet::V4(_) => IpAddr::V4(u32::try_from(number).ok()?.into()),
            IpNet::V6(_) => IpAddr::V6(number.into()),
        })
        .map(|address| address.to_string())
    };
    let upper = usable.checked_sub(reserved).filter(|upper| *upper > 0)?;
    let start = rand::rng().random_range(0..upper);
    let dynamic = (0..upper).map(|step| reserved + (start + step) % upper);
    dynamic.chain(0..reserved).filter_map(at).find(|address| !taken.contains(address))
}

fn node_ports(new: &mut Value, others: &Others, name: &str) -> Result<(), Status> {
    let spec = &mut new["spec"];
    let wants = has_node_ports(spec);
    let local = spec["externalTrafficPolicy"] == "Local" && text(spec, "type") == "LoadBalancer";
    // One number may serve TCP and UDP of one Service.
    let mut own: Vec<(i64, Value, Value)> = Vec::new();
    let mut taken = others.ports.clone();
    for (index, port) in ports_mut(spec).enumerate() {
        let Some(wanted) = port["nodePort"].as_i64().filter(|number| *number != 0) else {
            continue;
        };
        let field = format!("spec.ports[{index}].nodePort");
        if !NODE_PORTS.contains(&wanted) {
            return Err(refuse(
                name,
                &field,
                &format!(
                    "Invalid value: {wanted}: provided port is not in the valid range. The range of valid ports is 30000-32767"
                ),
            ));
        }
        let twin = own
            .iter()
            .any(|(number, protocol, _)| *number == wanted && *protocol != port["protocol"]);
        if taken.contains(&wanted) && !twin {
            return Err(refuse(
                name,
                &field,
                &format!("Invalid value: {wanted}: provided port is already allocated"),
            ));
        }
        taken.insert(wanted);
        own.push((wanted, port["protocol"].clone(), port["port"].clone()));
    }
    if wants {
        for port in ports_mut(spec) {
            if port["nodePort"].as_i64().is_some_and(|number| number != 0) {
                continue;
            }
            let twin = own.iter().find(|(_, protocol, number)| {
                *number == port["port"] && *protocol != port["protocol"]
            });
            let number = match twin {
                Some((number, ..)) => *number,
                None => free_port(&taken)?,
            };
            taken.insert(number);
            own.push((number, port["protocol"].clone(), port["port"].clone()));
            port["nodePort"] = number.into();
        }
    }
    if local && spec["healthCheckNodePort"].as_i64().unwrap_or(0) == 0 {
        spec["healthCheckNodePort"] = free_port(&taken)?.into();
    }
    Ok(())
}

fn free_port(taken: &HashSet<i64>) -> Result<i64, Status> {
    let (first, count) = (*NODE_PORTS.start(), NODE_PORTS.end() - NODE_PORTS.start() + 1);
    let start = rand::rng().random_range(0..count);
    (0..count)
        .map(|step| first + (start + step) % count)
        .find(|port| !taken.contains(port))
        .ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))
}

fn refuse(name: &str, field: &str, message: &str) -> Status {
    let cause =
        Cause { reason: "FieldValueInvalid", message: message.to_owned(), field: field.to_owned() };
    Status::invalid("", "Service", name, vec![cause])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_addresses_are_in_range_and_not_taken() {
        let range: IpNet = "10.0.0.0/29".parse().unwrap();
        let mut taken = HashSet::new();
        while let Some(address) = free(range, &taken) {
            assert!(taken.insert(address));
        }
        let mut all: Vec<_> = taken.into_iter().collect();
        all.sort();
        assert_eq!(all, ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
    }
}
