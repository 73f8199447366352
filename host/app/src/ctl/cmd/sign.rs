//! `sign-request` and `verify-request`: request envelopes (ipc.md section 13).

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use pilot_wire::ipc::{Request, SignBody};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Outcome;
use crate::ctl::context::Context;
use crate::ctl::fail::Failure;
use crate::ctl::out::Report;
use crate::ctl::values::{duration, text};

/// `sign-request`
#[derive(Debug, Args)]
pub(crate) struct SignRequest {
    /// Who the request is for.
    #[arg(long, value_name = "NAME")]
    audience: String,
    #[command(flatten)]
    body: Body,
    /// 16 lower-case hex digits; random when absent.
    #[arg(long, default_value = "", value_name = "HEX")]
    nonce: String,
}

/// `verify`
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The badge, as its issuer gave it.
    #[arg(long)]
    badge: String,
    /// The issuer's signature, base64.
    #[arg(long)]
    badge_sig: String,
}

/// `recovery ...`
#[derive(Debug, Subcommand)]
pub(crate) enum Recovery {
    /// Deposit an enrolment, so that the issuer can give this node a new key when its own is lost
    Enroll {
        /// The enrolment, as its issuer gave it (JSON).
        #[arg(long)]
        enrollment: String,
        /// The issuer's signature, base64.
        #[arg(long)]
        enrollment_sig: String,
    },
}

/// What the signature covers.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Body {
    /// The request's body, from a file.
    #[arg(long, value_name = "FILE")]
    body_file: Option<PathBuf>,
    /// The request's body.
    #[arg(long, allow_hyphen_values = true, value_name = "TEXT")]
    body: Option<String>,
    /// SHA-256 of the request's body, 64 lower-case hex digits.
    #[arg(long, value_name = "HEX")]
    body_hash: Option<String>,
}

/// `verify-request`
#[derive(Debug, Args)]
pub(crate) struct VerifyRequest {
    /// The envelope.
    #[arg(long)]
    envelope: String,
    /// Its signature, base64.
    #[arg(long)]
    signature: String,
    /// Ask the registry about the signer as well.
    #[arg(long)]
    standing: bool,
    /// Allowed clock difference.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    max_skew: Option<Duration>,
}

pub(crate) async fn sign(ctx: &Context, args: SignRequest) -> Outcome {
    let body = match args.body {
        Body { body_file: Some(path), .. } => {
            // Hashed here: a body may be larger than a frame.
            let mut hasher = Sha256::new();
            let copied = std::fs::File::open(&path)
                .and_then(|mut f| std::io::copy(&mut f, &mut HashWriter(&mut hasher)));
            copied.map_err(|e| Failure::invalid(format!("cannot read {}: {e}", path.display())))?;
            SignBody::Hash(hex::encode(hasher.finalize()))
        }
        Body { body: Some(text), .. } if text.is_empty() => SignBody::Hash(hex::encode(Sha256::digest(b""))),
        Body { body: Some(text), .. } => SignBody::Base64(STANDARD.encode(text)),
        Body { body_hash, .. } => SignBody::Hash(body_hash.unwrap_or_default()),
    };
    let request = Request::SignEnvelope { audience: args.audience, body, nonce: args.nonce };
    let answer = ctx.connect().await?.json(&request).await?;
    let text = ctx.out.facts(&[
        ("Envelope", text(&answer, "envelope").to_owned()),
        ("Signature", text(&answer, "signature").to_owned()),
        ("Address", text(&answer, "address").to_owned()),
    ]);
    Ok(Report::new(answer, text))
}

struct HashWriter<'a>(&'a mut Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(crate) async fn verify(ctx: &Context, args: VerifyRequest) -> Outcome {
    let request = Request::VerifyEnvelope {
        envelope: args.envelope,
        signature: args.signature,
        max_skew_secs: args.max_skew.map_or(0, |d| d.as_secs().cast_signed()),
        check_standing: args.standing,
    };
    let verdict = ctx.connect().await?.json(&request).await?;
    let valid = verdict["valid"] == Value::Bool(true);
    let line = match valid {
        true => format!("{}: signed by {}", ctx.out.green("valid"), text(&verdict, "address")),
        false => format!("{}: {}", ctx.out.red("invalid"), text(&verdict, "reason")),
    };
    Ok(Report::new(verdict, line).exit(u8::from(!valid)))
}

pub(crate) async fn verify_badge(ctx: &Context, args: Verify) -> Outcome {
    let request = Request::SubmitBadge { badge: args.badge, badge_sig: args.badge_sig };
    Ok(Report::sheet(&ctx.out, ctx.connect().await?.json(&request).await?))
}

pub(crate) async fn recovery(ctx: &Context, command: Recovery) -> Outcome {
    let Recovery::Enroll { enrollment, enrollment_sig } = command;
    let request = Request::EnrollRecovery { enrollment, enrollment_sig };
    Ok(Report::sheet(&ctx.out, ctx.connect().await?.json(&request).await?))
}
