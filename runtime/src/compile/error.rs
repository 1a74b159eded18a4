//! Why a spec has no plan.

/// Why a spec has no plan. Each names the field as config.json does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field that has to be there is not.
    #[error("{field} is missing")]
    Missing {
        /// Path of the field.
        field: &'static str,
    },
    /// A field asks for something this runtime does not do.
    #[error("{field} is not supported{}{value}", if value.is_empty() { "" } else { ": " })]
    Unsupported {
        /// Path of the field.
        field: &'static str,
        /// Its value, where that matters.
        value: String,
    },
    /// A field's value cannot be right.
    #[error("{field} {value:?} {reason}")]
    Invalid {
        /// Path of the field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Error {
    pub(crate) fn unsupported(field: &'static str, value: impl Into<String>) -> Self {
        Self::Unsupported {
            field,
            value: value.into(),
        }
    }

    pub(crate) fn invalid(field: &'static str, value: impl ToString, reason: &'static str) -> Self {
        Self::Invalid {
            field,
            value: value.to_string(),
            reason,
        }
    }
}
