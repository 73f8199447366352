//! Rules of a managed network (blueprint.md section 2).

use serde::Serialize;
use serde_json::value::RawValue;

use super::gostruct::{self, DecodeError, int_into, members, string_into};
use crate::goduration::{GoDuration, ParseDurationError};
use crate::gojson;
use crate::goquote::quote;

/// The shortest cycle.
const MIN_CYCLE: GoDuration = GoDuration::from_nanos(60_000_000_000);

/// `NetworkRules`: how the nodes of a managed network keep their links. The registry only stores and hands them out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NetworkRules {
    /// The most managed peers per node.
    pub links: i64,
    /// Period, as the duration text that was given.
    pub cycle: String,
    /// Peers dropped per cycle.
    pub prune: i64,
    /// Which ones: "score", "age" or "activity".
    pub prune_by: String,
    /// Peers added per cycle.
    pub fill: i64,
    /// Which ones: "random".
    pub fill_how: String,
    /// Protection of new members, as the duration text that was given; empty means none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub grace: String,
}

impl NetworkRules {
    /// Decodes rules without judging them.
    ///
    /// # Errors
    /// [`RulesError::Json`].
    pub fn from_json(json: &[u8]) -> Result<Self, RulesError> {
        gostruct::document(json, Self::update).map_err(|e| RulesError::Json { detail: e.to_string() })
    }

    /// The rules as the peer would write them.
    ///
    /// # Errors
    /// None in practice: the members always serialise.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        gojson::serialize(self)
    }

    fn update(&mut self, json: &RawValue) -> Result<(), DecodeError> {
        for (name, value) in members(json)? {
            match name.as_str() {
                "links" => int_into(&mut self.links, value)?,
                "cycle" => string_into(&mut self.cycle, value)?,
                "prune" => int_into(&mut self.prune, value)?,
                "prune_by" => string_into(&mut self.prune_by, value)?,
                "fill" => int_into(&mut self.fill, value)?,
                "fill_how" => string_into(&mut self.fill_how, value)?,
                "grace" => string_into(&mut self.grace, value)?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// `ParseRules`: decodes and validates.
///
/// # Errors
/// [`RulesError`].
pub fn parse_rules(json: &[u8]) -> Result<NetworkRules, RulesError> {
    let rules = NetworkRules::from_json(json)?;
    validate_rules(Some(&rules))?;
    Ok(rules)
}

/// `ValidateRules`: absent rules are valid; otherwise the first check that fails decides.
///
/// # Errors
/// [`RulesError`].
pub fn validate_rules(rules: Option<&NetworkRules>) -> Result<(), RulesError> {
    let Some(rules) = rules else { return Ok(()) };
    let NetworkRules { links, prune, fill, .. } = *rules;
    if links < 1 {
        return Err(RulesError::Links { links });
    }
    if rules.cycle.is_empty() {
        return Err(RulesError::Required { field: "cycle" });
    }
    if duration("cycle", &rules.cycle)? < MIN_CYCLE {
        return Err(RulesError::CycleTooShort { cycle: rules.cycle.clone() });
    }
    for (field, value) in [("prune", prune), ("fill", fill)] {
        if value < 0 {
            return Err(RulesError::Negative { field, value });
        }
    }
    for (field, value) in [("prune", prune), ("fill", fill)] {
        if value > links {
            return Err(RulesError::OverLinks { field, value, links });
        }
    }
    strategy("prune_by", &rules.prune_by, &["score", "age", "activity"])?;
    strategy("fill_how", &rules.fill_how, &["random"])?;
    if !rules.grace.is_empty() && duration("grace", &rules.grace)?.is_negative() {
        return Err(RulesError::GraceNegative);
    }
    Ok(())
}

fn duration(field: &'static str, text: &str) -> Result<GoDuration, RulesError> {
    text.parse().map_err(|cause| RulesError::Duration { field, text: text.to_owned(), cause })
}

fn strategy(field: &'static str, value: &str, known: &'static [&'static str]) -> Result<(), RulesError> {
    match value {
        "" => Err(RulesError::Required { field }),
        value if known.contains(&value) => Ok(()),
        value => Err(RulesError::Strategy { field, value: value.to_owned(), known }),
    }
}

/// Why rules are refused: their author's fault. Texts as the Go peer's, up to `detail`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RulesError {
    /// Not JSON, or a member of the wrong type.
    #[error("rules: invalid JSON: {detail}")]
    Json {
        /// What is wrong.
        detail: String,
    },
    /// No links at all.
    #[error("rules: links must be >= 1 (got {links})")]
    Links {
        /// The number given.
        links: i64,
    },
    /// A member that must not be empty.
    #[error("rules: {field} is required")]
    Required {
        /// Its name.
        field: &'static str,
    },
    /// A member that must be a duration.
    #[error("rules: invalid {field} duration {}: {cause}", quote(.text))]
    Duration {
        /// Its name.
        field: &'static str,
        /// What it says.
        text: String,
        /// What is wrong with that.
        cause: ParseDurationError,
    },
    /// The cycle is under a minute.
    #[error("rules: cycle must be >= 1m (got {cycle})")]
    CycleTooShort {
        /// The cycle as given.
        cycle: String,
    },
    /// A count below zero.
    #[error("rules: {field} must be >= 0 (got {value})")]
    Negative {
        /// Its name.
        field: &'static str,
        /// Its value.
        value: i64,
    },
    /// A count above the number of links.
    #[error("rules: {field} ({value}) cannot exceed links ({links})")]
    OverLinks {
        /// Its name.
        field: &'static str,
        /// Its value.
        value: i64,
        /// The number of links.
        links: i64,
    },
    /// A strategy nobody knows.
    #[error("rules: unknown {field} strategy {} (want {})", quote(.value), .known.join("|"))]
    Strategy {
        /// Which member.
        field: &'static str,
        /// What it says.
        value: String,
        /// What it may say.
        known: &'static [&'static str],
    },
    /// The grace period is below zero.
    #[error("rules: grace must be >= 0")]
    GraceNegative,
}
