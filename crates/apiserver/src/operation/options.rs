//! Options that come in query strings and `DeleteOptions` bodies.

use http::HeaderMap;
use serde_json::Value;

use crate::request::{Call, Query};
use crate::status::{Cause, Status};

/// What to do with unknown fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// Options of create, update and patch.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub manager: String,
    pub has_manager: bool,
    pub validation: FieldValidation,
    pub force: bool,
}

impl WriteOptions {
    /// Reads them from a request.
    ///
    /// # Errors
    /// 422 for values that do not exist.
    pub fn read(call: &Call) -> Result<Self, Status> {
        let kind = match call.info.verb.as_str() {
            "create" => "CreateOptions",
            "update" => "UpdateOptions",
            _ => "PatchOptions",
        };
        let manager = call.query.get("fieldManager").unwrap_or_default();
        if manager.len() > 128 {
            let cause = Cause {
                reason: "FieldValueTooLong",
                message: "Too long: may not be more than 128 bytes".into(),
                field: "fieldManager".into(),
            };
            return Err(Status::invalid("meta.k8s.io", kind, "", vec![cause]));
        }
        Ok(Self {
            dry_run: dry_run(&call.query.all("dryRun").collect::<Vec<_>>(), kind)?,
            manager: if manager.is_empty() {
                manager_from_agent(&call.parts.headers)
            } else {
                manager.to_owned()
            },
            has_manager: !manager.is_empty(),
            validation: validation(&call.query, kind)?,
            force: call.query.flag("force"),
        })
    }
}

/// Reads `dryRun`: only `All` exists.
///
/// # Errors
/// 422 for any other value.
pub fn dry_run(values: &[&str], kind: &str) -> Result<bool, Status> {
    let values: Vec<_> = values.iter().filter(|value| !value.is_empty()).collect();
    match values.iter().find(|value| ***value != "All") {
        None => Ok(!values.is_empty()),
        Some(_) => {
            let all: Vec<String> = values.iter().map(|value| format!("\"{value}\"")).collect();
            let cause = Cause {
                reason: "FieldValueNotSupported",
                message: format!(
                    "Unsupported value: [{}]: supported values: \"All\"",
                    all.join(",")
                ),
                field: "dryRun".into(),
            };
            Err(Status::invalid("meta.k8s.io", kind, "", vec![cause]))
        }
    }
}

fn validation(query: &Query, kind: &str) -> Result<FieldValidation, Status> {
    match query.get("fieldValidation").unwrap_or_default() {
        "" | "Warn" => Ok(FieldValidation::Warn),
        "Ignore" => Ok(FieldValidation::Ignore),
        "Strict" => Ok(FieldValidation::Strict),
        other => {
            let cause = Cause {
                reason: "FieldValueNotSupported",
                message: format!(
                    "Unsupported value: \"{other}\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""
                ),
                field: "fieldValidation".into(),
            };
            Err(Status::invalid("meta.k8s.io", kind, "", vec![cause]))
        }
    }
}

/// A client that names no manager is known by the first word of its user agent.
fn manager_from_agent(headers: &HeaderMap) -> String {
    let agent = headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok());
    let agent = agent.unwrap_or_default().split('/').next().unwrap_or_default();
    let agent: String = agent.chars().take(128).collect();
    if agent.is_empty() { "unknown".to_owned() } else { agent }
}

/// `DeleteOptions`, from a body and the query string.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    pub grace: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub propagation: Option<String>,
    pub orphan: Option<bool>,
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Reads them; what the body says counts, the query string fills in when there is no body.
    ///
    /// # Errors
    /// 400 and 422 for what cannot be.
    pub fn read(body: &Value, query: &Query) -> Result<Self, Status> {
        let mut options = Self::default();
        if body.is_object() {
            options.grace = body["gracePeriodSeconds"].as_i64();
            options.uid = body["preconditions"]["uid"].as_str().map(str::to_owned);
            options.resource_version =
                body["preconditions"]["resourceVersion"].as_str().map(str::to_owned);
            options.propagation = body["propagationPolicy"].as_str().map(str::to_owned);
            options.orphan = body["orphanDependents"].as_bool();
            let values = crate::object::strings(&body["dryRun"]);
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            options.dry_run = dry_run(&values, "DeleteOptions")?;
        } else {
            options.grace = query.number("gracePeriodSeconds")?;
            options.propagation = query.get("propagationPolicy").map(str::to_owned);
            options.orphan = query.get("orphanDependents").map(|value| value == "true");
            options.dry_run = dry_run(&query.all("dryRun").collect::<Vec<_>>(), "DeleteOptions")?;
        }
        options.check()?;
        Ok(options)
    }

    fn check(&self) -> Result<(), Status> {
        let refuse = |reason, field: &str, message: String| {
            let cause = Cause { reason, message, field: field.into() };
            Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", vec![cause]))
        };
        let Some(policy) = &self.propagation else { return Ok(()) };
        if self.orphan.is_some() {
            let shown = format!(
                "Invalid value: \"{policy}\": orphanDependents and deletionPropagation cannot be both set"
            );
            return refuse("FieldValueInvalid", "propagationPolicy", shown);
        }
        if !matches!(policy.as_str(), "Foreground" | "Background" | "Orphan") {
            let shown = format!(
                "Unsupported value: \"{policy}\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
            );
            return refuse("FieldValueNotSupported", "propagationPolicy", shown);
        }
        Ok(())
    }
}
