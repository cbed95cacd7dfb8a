//! Why one pass over one object failed.
//!
//! The queue retries every failure with back-off, so a failure only needs to say what was being
//! done to which object, and whether another client was merely faster.

use std::fmt;

use kube::core::Status;

/// What a controller could not do.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The API server refused, or was not reached.
    #[error("{doing}")]
    Api {
        /// The step, with the object's name.
        doing: String,
        /// What the API server or the connection said.
        source: Box<Refused>,
    },
    /// The object cannot be worked on as it is.
    #[error("{0}")]
    Object(String),
}

impl Failure {
    /// Whether another client changed, made or removed the object first: not worth a warning.
    pub fn lost_a_race(&self) -> bool {
        match self {
            Self::Api { source, .. } => status(&source.0).is_some_and(|status| {
                matches!(status.code, 404 | 409) || is_namespace_ending(status)
            }),
            Self::Object(_) => false,
        }
    }
}

/// A client error whose text is what the API server said, without the rest of its `Status`.
#[derive(Debug)]
pub struct Refused(pub kube::Error);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            kube::Error::Api(status) => write!(f, "{} ({})", status.message, status.code),
            other => write!(f, "{}", tombolo_runtime::errors::chain(other)),
        }
    }
}

impl std::error::Error for Refused {}

/// Names the step that an API call belongs to.
pub trait Doing<T> {
    /// Turns the client's error into a [`Failure`] with `doing` as its text.
    ///
    /// # Errors
    /// The error it was called on.
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T> Doing<T> for kube::Result<T> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|source| Failure::Api { doing: doing(), source: Box::new(Refused(source)) })
    }
}

/// The `Status` inside a client error, when the API server sent one.
pub fn status(error: &kube::Error) -> Option<&Status> {
    match error {
        kube::Error::Api(status) => Some(status),
        _ => None,
    }
}

/// Whether nothing can be made in the namespace because it is being deleted.
fn is_namespace_ending(status: &Status) -> bool {
    let causes = status.details.as_ref().map(|details| details.causes.as_slice());
    let mut causes = causes.unwrap_or_default().iter();
    causes.any(|cause| cause.reason == "NamespaceTerminating")
}

/// Whether the API server says that the object does not exist.
pub fn is_not_found(error: &kube::Error) -> bool {
    status(error).is_some_and(|status| status.code == 404)
}

/// Whether the API server says that the object exists already.
pub fn already_exists(error: &kube::Error) -> bool {
    status(error).is_some_and(|status| status.code == 409 && status.reason == "AlreadyExists")
}

/// Success when the object was gone already.
///
/// # Errors
/// Every other error.
pub fn unless_gone<T>(result: kube::Result<T>) -> kube::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
