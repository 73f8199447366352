//! Spans to an OpenTelemetry collector (OTLP over HTTP, protobuf), off unless `[telemetry] otlp` names one: what local
//! clients ask, what that makes the engine do, and the calls between host and plugins.
//!
//! `logging` installs the layer, the binary ends it. The standard crates do the work; this module gives them the host's
//! own HTTP client, so that no second one is built in. Spans wait in a queue of 2048; what finds it full is lost. Nothing
//! here ever waits on behalf of the data plane.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider};
use tracing::warn;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::{Layer as _, Registry};

use crate::logging::BoxedLayer;

/// How long finished spans wait for others before they are sent.
const DELAY: Duration = Duration::from_secs(1);
/// How long a collector may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a stopping host waits for its last spans.
const FAREWELL: Duration = Duration::from_secs(2);
/// Bytes of a collector's answer that are read.
const MAX_ANSWER: u64 = 64 << 10;
/// Crates whose spans are exported. The HTTP client is not one of them, or it would report on itself.
const SOURCES: [&str; 4] = ["pilot_host", "pilot_net", "pilot_loader", "pilot_engine"];

/// Ended once, by [`end`].
static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// The layer that hands finished spans to the collector at `base`; its `/v1/traces` is used.
///
/// # Errors
/// When the exporter does not take the address, or the system gives no thread.
pub fn layer(base: &str) -> anyhow::Result<BoxedLayer> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Sender::new())
        .with_endpoint(format!("{}/v1/traces", base.trim_end_matches('/')))
        .with_timeout(PATIENCE)
        .build()
        .with_context(|| format!("export spans to {base}"))?;
    let batches = BatchConfigBuilder::default().with_scheduled_delay(DELAY).build();
    let host = Resource::builder()
        .with_service_name("pilot-host")
        .with_attribute(KeyValue::new("service.version", crate::version::VERSION))
        .with_attribute(KeyValue::new("process.pid", i64::from(std::process::id())))
        .build();
    let provider = SdkTracerProvider::builder()
        .with_resource(host)
        .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
        .build();
    let tracer = provider.tracer("pilot-host");
    // Set once; a second layer is not installed either.
    let _ = PROVIDER.set(provider);
    // Whatever the log level: spans are not log lines.
    let ours = Targets::new().with_targets(SOURCES.map(|name| (name, LevelFilter::DEBUG)));
    Ok(tracing_opentelemetry::layer::<Registry>()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_filter(ours)
        .boxed())
}

/// Sends what waits and ends the export; does nothing without [`layer`]. For the end of the process.
pub fn end() {
    if let Some(provider) = PROVIDER.get()
        && let Err(error) = provider.shutdown_with_timeout(FAREWELL)
    {
        warn!(%error, "the last spans were not exported");
    }
}

/// The host's HTTP client in the exporter's shape. Called on the exporter's own thread, which may wait.
#[derive(Debug)]
struct Sender {
    agent: ureq::Agent,
    /// The last attempt failed: said once, not each second.
    failing: AtomicBool,
}

impl Sender {
    fn new() -> Sender {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .max_redirects(0);
        Sender { agent: config.build().into(), failing: AtomicBool::new(false) }
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let answer = self.agent.run(Request::from_parts(head, &body[..]))?;
        let (head, mut body) = answer.into_parts();
        let body = body.with_config().limit(MAX_ANSWER).read_to_vec()?;
        Ok(Response::from_parts(head, body.into()))
    }
}

#[async_trait::async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.send(request);
        let trouble = match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(answer.status().to_string()),
            Err(error) => Some(error.to_string()),
        };
        let before = self.failing.swap(trouble.is_some(), Ordering::Relaxed);
        if let Some(error) = trouble.filter(|_| !before) {
            warn!(error, "spans are not exported; the collector is asked again with the next ones");
        }
        answer
    }
}
