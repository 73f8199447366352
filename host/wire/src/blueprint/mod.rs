//! Network blueprints, managed-network rules and their conversion to policy documents (blueprint.md).
//!
//! Called by the registry (provisioning, create and join) and by the command line. Pure: whoever loads a file reads it and
//! puts `read blueprint: ` in front of the operating system's error. JSON is read as the peer reads it into structures: member
//! names match ignoring case, unknown members are skipped, of repeated members the last one counts, `null` changes
//! nothing.

mod gostruct;
mod policy;
mod rules;
#[cfg(test)]
mod tests;
mod url;
mod validate;

use serde::Serialize;
use serde_json::value::RawValue;

use self::gostruct::{DecodeError, bool_into, int_into, list, members, string_into};
use crate::gojson;

pub use policy::{allowed_ports_to_policy, rules_to_policy};
pub use rules::{NetworkRules, RulesError, parse_rules, validate_rules};
pub use url::{UrlError, check_url};
pub use validate::{BlueprintError, validate_blueprint};

/// `NetworkBlueprint`: a declarative description of a network, as given to the registry for provisioning.
///
/// Serialises in the peer's order and form: see [`NetworkBlueprint::to_json`].
#[derive(Clone, Debug, Default, Serialize)]
pub struct NetworkBlueprint {
    /// Network name; its syntax is checked when the network is created.
    pub name: String,
    /// "open" (also when empty), "token" or "invite".
    #[serde(skip_serializing_if = "String::is_empty")]
    pub join_rule: String,
    /// What a joining node must show when the rule is "token".
    #[serde(skip_serializing_if = "String::is_empty")]
    pub join_token: String,
    /// Turns the enterprise features on.
    #[serde(skip_serializing_if = "is_false")]
    pub enterprise: bool,
    /// Limits and ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<BlueprintPolicy>,
    /// A policy document, kept as it was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expr_policy: Option<Box<RawValue>>,
    /// Roles given to members by their verified external identity.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<BlueprintRole>,
    /// Who verifies external identities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity_provider: Option<BlueprintIdentityProvider>,
    /// Where events go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhooks: Option<BlueprintWebhooks>,
    /// Where the audit log goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_export: Option<BlueprintAuditExport>,
    /// Admin token for this network alone.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub network_admin_token: String,
}

/// `BlueprintPolicy`: limits and ports of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BlueprintPolicy {
    /// The most members; 0 means none given. Not checked.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_members: i64,
    /// Ports that may be reached; empty means none given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_ports: Vec<u16>,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// `BlueprintRole`: a role for whoever turns out to be a given person.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BlueprintRole {
    /// Verified external identity, compared ignoring case.
    pub external_id: String,
    /// "owner", "admin" or "member".
    pub role: String,
}

/// `BlueprintIdentityProvider`: who verifies external identities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BlueprintIdentityProvider {
    /// "oidc", "saml", "webhook", "entra_id" or "ldap".
    #[serde(rename = "type")]
    pub kind: String,
    /// Where to verify.
    pub url: String,
    /// OIDC issuer.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub issuer: String,
    /// OIDC client.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_id: String,
    /// Entra tenant.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tenant_id: String,
    /// LDAP domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
}

/// `BlueprintWebhooks`: where events go; empty means nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BlueprintWebhooks {
    /// Audit events.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub audit_url: String,
    /// Identity verification.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub identity_url: String,
}

/// `BlueprintAuditExport`: where the audit log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BlueprintAuditExport {
    /// "json", "splunk_hec" or "syslog_cef".
    pub format: String,
    /// A URL, or `host:port` for syslog.
    pub endpoint: String,
    /// Authentication, for example a collector's token.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub token: String,
    /// Splunk index.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub index: String,
    /// Source label.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the shape serde asks for
fn is_false(b: &bool) -> bool {
    !b
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// Decodes a blueprint without judging it.
///
/// # Errors
/// [`LoadError::Parse`].
pub fn parse_blueprint(json: &[u8]) -> Result<NetworkBlueprint, LoadError> {
    gostruct::document(json, NetworkBlueprint::update).map_err(|e| LoadError::Parse { detail: e.to_string() })
}

/// `LoadBlueprint`, given the file's content: decodes and demands a name. Does not run [`validate_blueprint`].
///
/// # Errors
/// [`LoadError`].
pub fn load_blueprint(json: &[u8]) -> Result<NetworkBlueprint, LoadError> {
    let blueprint = parse_blueprint(json)?;
    if blueprint.name.is_empty() { Err(LoadError::NameRequired) } else { Ok(blueprint) }
}

/// Why a blueprint cannot be loaded: its author's fault. Texts as the Go peer's, up to `detail`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Not JSON, or a member of the wrong type.
    #[error("parse blueprint: {detail}")]
    Parse {
        /// What is wrong.
        detail: String,
    },
    /// The name is missing or empty.
    #[error("blueprint: name is required")]
    NameRequired,
}

impl NetworkBlueprint {
    /// The document as the peer would write it: members in declaration order, empty optional ones left out.
    ///
    /// # Errors
    /// None in practice: the members always serialise.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        gojson::serialize(self)
    }

    fn update(&mut self, json: &RawValue) -> Result<(), DecodeError> {
        for (name, value) in members(json)? {
            match name.as_str() {
                "name" => string_into(&mut self.name, value)?,
                "join_rule" => string_into(&mut self.join_rule, value)?,
                "join_token" => string_into(&mut self.join_token, value)?,
                "enterprise" => bool_into(&mut self.enterprise, value)?,
                "policy" => gostruct::optional(&mut self.policy, value, BlueprintPolicy::update)?,
                "expr_policy" => self.expr_policy = Some(value.to_owned()),
                "roles" => self.roles = list(value, BlueprintRole::update)?,
                "identity_provider" => {
                    gostruct::optional(
                        &mut self.identity_provider,
                        value,
                        BlueprintIdentityProvider::update,
                    )?;
                }
                "webhooks" => gostruct::optional(&mut self.webhooks, value, BlueprintWebhooks::update)?,
                "audit_export" => {
                    gostruct::optional(&mut self.audit_export, value, BlueprintAuditExport::update)?
                }
                "network_admin_token" => string_into(&mut self.network_admin_token, value)?,
                _ => {}
            }
        }
        Ok(())
    }
}

impl BlueprintPolicy {
    fn update(&mut self, json: &RawValue) -> Result<(), DecodeError> {
        for (name, value) in members(json)? {
            match name.as_str() {
                "max_members" => int_into(&mut self.max_members, value)?,
                "allowed_ports" => self.allowed_ports = list(value, int_into)?,
                "description" => string_into(&mut self.description, value)?,
                _ => {}
            }
        }
        Ok(())
    }
}

impl BlueprintRole {
    fn update(&mut self, json: &RawValue) -> Result<(), DecodeError> {
        for (name, value) in members(json)? {
            match name.as_str() {
                "external_id" => string_into(&mut self.external_id, value)?,
                "role" => string_into(&mut self.role, value)?,
                _ => {}
            }
        }
        Ok(())
    }
}

impl BlueprintIdentityProvider {
    fn update(&mut self, json: &RawValue) -> Result<(), DecodeError> {
        for (name, value) in members(json)? {
            let field = match name.as_str() {
                "type" => &mut self.kind,
                "url" => &mut self.url,
                "issuer" => &mut self.issuer,
                "client_id" => &mut self.client_id,
                "tenant_id" => &mut self.tenant_id,
                "domain" => &mut self.domain,
                _ => continue,
            };
            string_into(field, value)?;
        }
        Ok(())
    }
}

impl BlueprintWebhooks {
    fn update(&mut self, json: &RawValue) -> Result<(), DecodeError> {
        for (name, value) in members(json)? {
            let field = match name.as_str() {
                "audit_url" => &mut self.audit_url,
                "identity_url" => &mut self.identity_url,
                _ => continue,
            };
            string_into(field, value)?;
        }
        Ok(())
    }
}

impl BlueprintAuditExport {
    fn update(&mut self, json: &RawValue) -> Result<(), DecodeError> {
        for (name, value) in members(json)? {
            let field = match name.as_str() {
                "format" => &mut self.format,
                "endpoint" => &mut self.endpoint,
                "token" => &mut self.token,
                "index" => &mut self.index,
                "source" => &mut self.source,
                _ => continue,
            };
            string_into(field, value)?;
        }
        Ok(())
    }
}
