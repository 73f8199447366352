//! The full check of a blueprint; the first rule that fails decides (blueprint.md section 1).

use serde_json::value::RawValue;

use super::gostruct::{self, DecodeError, int_into, members};
use super::url::{UrlError, check_url};
use super::{BlueprintAuditExport, BlueprintIdentityProvider, NetworkBlueprint};
use crate::goquote::quote;

/// The one version of policy documents.
const EXPR_POLICY_VERSION: i64 = 1;

/// `ValidateBlueprint`. Name syntax, port values and member limits are not checked here.
///
/// # Errors
/// [`BlueprintError`], the first rule that fails.
pub fn validate_blueprint(blueprint: &NetworkBlueprint) -> Result<(), BlueprintError> {
    if blueprint.name.is_empty() {
        return Err(BlueprintError::NameRequired);
    }
    match blueprint.join_rule.as_str() {
        "" | "open" | "invite" => {}
        "token" if blueprint.join_token.is_empty() => return Err(BlueprintError::JoinTokenRequired),
        "token" => {}
        other => return Err(BlueprintError::JoinRule { rule: other.to_owned() }),
    }
    for role in &blueprint.roles {
        if role.external_id.is_empty() {
            return Err(BlueprintError::ExternalIdRequired);
        }
        if !matches!(role.role.as_str(), "owner" | "admin" | "member") {
            return Err(BlueprintError::Role {
                role: role.role.clone(),
                external_id: role.external_id.clone(),
            });
        }
    }
    if let Some(provider) = &blueprint.identity_provider {
        check_identity_provider(provider)?;
    }
    if let Some(webhooks) = &blueprint.webhooks {
        for (field, url) in
            [("webhooks.audit_url", &webhooks.audit_url), ("webhooks.identity_url", &webhooks.identity_url)]
        {
            if !url.is_empty() {
                check_url(url).map_err(|cause| BlueprintError::Url { field, cause })?;
            }
        }
    }
    if let Some(export) = &blueprint.audit_export {
        check_audit_export(export)?;
    }
    blueprint.expr_policy.as_deref().map_or(Ok(()), check_expr_policy)
}

fn check_identity_provider(provider: &BlueprintIdentityProvider) -> Result<(), BlueprintError> {
    if !matches!(provider.kind.as_str(), "oidc" | "saml" | "webhook" | "entra_id" | "ldap") {
        return Err(BlueprintError::IdentityProviderType { kind: provider.kind.clone() });
    }
    if provider.url.is_empty() {
        return Err(BlueprintError::Required { field: "identity_provider.url" });
    }
    check_url(&provider.url).map_err(|cause| BlueprintError::Url { field: "identity_provider.url", cause })
}

fn check_audit_export(export: &BlueprintAuditExport) -> Result<(), BlueprintError> {
    if !matches!(export.format.as_str(), "json" | "splunk_hec" | "syslog_cef") {
        return Err(BlueprintError::AuditExportFormat { format: export.format.clone() });
    }
    if export.endpoint.is_empty() {
        return Err(BlueprintError::Required { field: "audit_export.endpoint" });
    }
    if export.format == "syslog_cef" {
        return Ok(()); // a bare host:port
    }
    check_url(&export.endpoint).map_err(|cause| BlueprintError::Url { field: "audit_export.endpoint", cause })
}

/// Looks at version and presence of rules only; the policy plugin compiles the document.
fn check_expr_policy(json: &RawValue) -> Result<(), BlueprintError> {
    let head = Head::read(json).map_err(|e| BlueprintError::ExprPolicyJson { detail: e.to_string() })?;
    if head.version != EXPR_POLICY_VERSION {
        return Err(BlueprintError::ExprPolicyVersion { version: head.version });
    }
    if !head.has_rules {
        return Err(BlueprintError::ExprPolicyRules);
    }
    Ok(())
}

#[derive(Default)]
struct Head {
    version: i64,
    has_rules: bool,
}

impl Head {
    fn read(json: &RawValue) -> Result<Self, DecodeError> {
        gostruct::document(json.get().as_bytes(), |head: &mut Self, json| {
            for (name, value) in members(json)? {
                match name.as_str() {
                    "version" => int_into(&mut head.version, value)?,
                    "rules" => head.has_rules = value.get() != "null",
                    _ => {}
                }
            }
            Ok(())
        })
    }
}

/// Why a blueprint is refused: its author's fault. Texts as the Go peer's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlueprintError {
    /// No name.
    #[error("name is required")]
    NameRequired,
    /// Unknown join rule; case counts.
    #[error("invalid join_rule {} (must be open, token, or invite)", quote(.rule))]
    JoinRule {
        /// The rule.
        rule: String,
    },
    /// Join rule "token" without a token.
    #[error("join_token is required when join_rule is token")]
    JoinTokenRequired,
    /// A role for nobody.
    #[error("role entry: external_id is required")]
    ExternalIdRequired,
    /// Unknown role.
    #[error("invalid role {} for {external_id}", quote(.role))]
    Role {
        /// The role.
        role: String,
        /// Whose.
        external_id: String,
    },
    /// Unknown kind of identity provider.
    #[error("invalid identity_provider type {}", quote(.kind))]
    IdentityProviderType {
        /// The kind.
        kind: String,
    },
    /// A member that must not be empty.
    #[error("{field} is required")]
    Required {
        /// Its path.
        field: &'static str,
    },
    /// A member that must be a URL one may send to.
    #[error("{field}: {cause}")]
    Url {
        /// Its path.
        field: &'static str,
        /// What is wrong with it.
        cause: UrlError,
    },
    /// Unknown export format.
    #[error("invalid audit_export format {}", quote(.format))]
    AuditExportFormat {
        /// The format.
        format: String,
    },
    /// The policy document is no object, or its version no integer.
    #[error("expr_policy: invalid JSON: {detail}")]
    ExprPolicyJson {
        /// What is wrong with it.
        detail: String,
    },
    /// The policy document's version is not 1.
    #[error("expr_policy: unsupported version {version} (want 1)")]
    ExprPolicyVersion {
        /// Its version, 0 when missing.
        version: i64,
    },
    /// The policy document has no rules at all; an empty list is enough.
    #[error("expr_policy: at least one rule is required")]
    ExprPolicyRules,
}
