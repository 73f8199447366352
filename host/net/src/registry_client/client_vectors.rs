//! The recorded registry vectors from the client's end: the real client speaks to a scripted server that plays the
//! recorded exchanges. What the client sends is compared byte for byte with the recorded request, what it makes of the
//! recorded answer with what stands in that answer.
//!
//! Each entry is sent the way the client would send it of its own accord: a recorded signature has to come out of its own
//! signing table and the recorded key. Only what the recording server refused may go out as it is, with the wrong, missing
//! or odd members that it was refused for. Where the client has a method for the operation, that method has to send the
//! same, and its result must say what the answer says.
#![allow(clippy::print_stdout)] // figures are printed

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pilot_engine::identity::Identity;
use pilot_vectors::Entry;
use pilot_wire::registry::{Split, split_message};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;

/// Longest that one exchange on loopback may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that answers as it is told and tells what it was asked.
struct Scripted {
    addr: String,
    answers: mpsc::UnboundedSender<Vec<u8>>,
    asked: mpsc::UnboundedReceiver<Vec<u8>>,
}

impl Scripted {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (answers, mut script) = mpsc::unbounded_channel::<Vec<u8>>();
        let (tell, asked) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            // One connection at a time: each exchange has its own client.
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut pending = Vec::new();
                loop {
                    let whole = match split_message(&pending) {
                        Ok(Split::Complete { consumed, .. }) => Some(consumed),
                        _ => None,
                    };
                    if let Some(consumed) = whole {
                        let _ = tell.send(pending.drain(..consumed).collect());
                        let Some(answer) = script.recv().await else { return };
                        stream.write_u32(u32::try_from(answer.len()).unwrap()).await.unwrap();
                        stream.write_all(&answer).await.unwrap();
                    }
                    if stream.read_buf(&mut pending).await.unwrap_or(0) == 0 {
                        break;
                    }
                }
            }
        });
        Self { addr, answers, asked }
    }

    /// One exchange: what the client sent, and what it made of the answer.
    async fn exchange<T>(
        &mut self,
        client: RegistryClient,
        answer: &[u8],
        ask: impl AsyncFnOnce(&RegistryClient) -> Result<T, RegistryError>,
    ) -> (Vec<u8>, Result<T, RegistryError>) {
        self.answers.send(answer.to_vec()).unwrap();
        let exchange = async {
            let result = ask(&client).await;
            (self.asked.recv().await.unwrap(), result)
        };
        tokio::time::timeout(PATIENCE, exchange).await.expect("an exchange comes to its end")
    }

    fn client(&self, signer: Option<[u8; 32]>, node: u32) -> RegistryClient {
        let client = match signer {
            None => RegistryClient::unsigned(&*self.addr),
            Some(seed) => {
                let identity = Identity::generate(seed);
                RegistryClient::new(&*self.addr, move |bytes| Some(identity.sign(bytes)))
            }
        };
        client.set_node(node);
        client
    }
}

/// How often entries went out in each way.
#[derive(Default)]
struct Tally {
    typed: AtomicUsize,
    signed: AtomicUsize,
    plain: AtomicUsize,
}

#[test]
fn recorded_requests_and_answers() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut server = runtime.block_on(Scripted::start());
    let seeds = seeds(&pilot_vectors::load("registry").unwrap_or_default());
    let tally = Tally::default();
    pilot_vectors::run("pilot-net client", &["registry"], |_, entry| {
        runtime.block_on(play(&mut server, &seeds, &tally, entry));
    });
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let (signed, plain) = (count(&tally.signed), count(&tally.plain));
    println!(
        "vectors: registry: pilot-net client signed {signed}, sent {plain} as they are; {} of them by methods of their own",
        count(&tally.typed)
    );
}

/// All keys that the recordings were signed with.
fn seeds(entries: &[Entry]) -> Vec<[u8; 32]> {
    let own = entries.iter().filter_map(|e| e.fields.get("signing_seed_hex"));
    let shared = entries.iter().filter_map(|e| e.fields.get("signing_seeds_hex")?.as_object());
    let all = own.chain(shared.flat_map(Map::values)).filter_map(Value::as_str);
    let mut seeds: Vec<[u8; 32]> = all.map(|seed| hex::decode(seed).unwrap().try_into().unwrap()).collect();
    seeds.sort_unstable();
    seeds.dedup();
    seeds
}

async fn play(server: &mut Scripted, seeds: &[[u8; 32]], tally: &Tally, entry: &Entry) {
    let (wanted, answer) = match entry.kind.as_str() {
        // The recording is of the request alone, and `hex` is the whole message.
        "json_request" => (entry.bytes.clone(), None),
        _ => {
            let mut message = Vec::new();
            pilot_wire::registry::encode_raw_message(entry.text("request").as_bytes(), &mut message).unwrap();
            (message, Some(entry.bytes.clone()))
        }
    };
    let Ok(Split::Complete { message: body, .. }) = split_message(&wanted) else {
        panic!("{}: the request is no message", entry.name)
    };
    let request: Map<String, Value> = serde_json::from_slice(body).unwrap();
    let expected: Map<String, Value> = match &answer {
        Some(answer) => serde_json::from_slice(answer).unwrap(),
        None => object(json!({"type": "some_ok"})),
    };
    let body = answer.unwrap_or_else(|| serde_json::to_vec(&expected).unwrap());

    let signer = signer(server, seeds, &request, &wanted, &body, &expected).await;
    if signer.is_some() {
        tally.signed.fetch_add(1, Ordering::Relaxed);
    } else {
        let refused = entry.error;
        assert!(
            refused || !request.contains_key("signature"),
            "{}: the client signs another text than the recorded one, or names its sender elsewhere",
            entry.name
        );
        tally.plain.fetch_add(1, Ordering::Relaxed);
        let mut params = request.clone();
        let op = params.remove("type");
        match op.as_ref().and_then(Value::as_str) {
            Some(op) => {
                let client = server.client(None, 0);
                let (sent, made) = server.exchange(client, &body, async |c| c.call(op, params).await).await;
                assert_eq!(text(&sent), text(&wanted), "{}", entry.name);
                compare(&entry.name, made, &expected);
            }
            // A client always names its operation.
            None => assert!(refused, "{}: no operation", entry.name),
        }
    }
    if let Some(method) = Method::of(&request, signer.is_some()) {
        tally.typed.fetch_add(1, Ordering::Relaxed);
        let client = server.client(signer, sender(&request));
        let (sent, made) =
            server.exchange(client, &body, async |client| method.call(client, &request).await).await;
        assert_eq!(text(&sent), text(&wanted), "{}", entry.name);
        match made {
            Ok(facts) => {
                assert!(!expected.contains_key("error"), "{}: a refusal is taken for {facts}", entry.name);
                let recorded = Value::Object(expected);
                assert!(says(&recorded, &facts), "{}: {facts} is made of {recorded}", entry.name);
            }
            // A request that was recorded alone has no answer to register with.
            Err(RegistryError::Incomplete { .. }) => assert_eq!(entry.kind, "json_request", "{}", entry.name),
            Err(e) => refusal(&entry.name, &e, &expected),
        }
    }
}

/// The key with which the client sends exactly the recorded request, if there is one. The answer has to come back right
/// on the way.
async fn signer(
    server: &mut Scripted,
    seeds: &[[u8; 32]],
    request: &Map<String, Value>,
    wanted: &[u8],
    body: &[u8],
    expected: &Map<String, Value>,
) -> Option<[u8; 32]> {
    let op = request.get("type")?.as_str()?.to_owned();
    request.get("signature")?;
    for seed in seeds {
        let client = server.client(Some(*seed), sender(request));
        let mut params = request.clone();
        params.remove("type");
        params.remove("signature");
        // Registering is signed over what it carries, and by its own method only.
        let typed = if op == "register" { Method::of(request, true) } else { None };
        let ask = async |client: &RegistryClient| match typed {
            Some(method) => method.call(client, request).await.map(|_| expected.clone()),
            None => client.call_signed(&op, params).await,
        };
        let (sent, made) = server.exchange(client, body, ask).await;
        if sent == wanted {
            if !matches!(made, Err(RegistryError::Incomplete { .. })) {
                compare(&op, made, expected);
            }
            return Some(*seed);
        }
    }
    None
}

/// Whose request it is.
fn sender(request: &Map<String, Value>) -> u32 {
    let members = ["requester_id", "from_node_id", "node_id", "inviter_id"];
    let number = members.iter().find_map(|key| request.get(*key)?.as_u64());
    number.map_or(0, |n| u32::try_from(n).unwrap())
}

/// The answer reaches the caller whole, a refusal with its text.
fn compare(name: &str, made: Result<Map<String, Value>, RegistryError>, expected: &Map<String, Value>) {
    match made {
        Ok(answer) => {
            assert!(!expected.contains_key("error"), "{name}: a refusal is taken for an answer");
            assert_eq!(answer, *expected, "{name}");
        }
        Err(e) => refusal(name, &e, expected),
    }
}

fn refusal(name: &str, error: &RegistryError, expected: &Map<String, Value>) {
    let recorded = expected.get("error").and_then(Value::as_str);
    assert_eq!(error.refusal(), recorded, "{name}: {error}");
    assert!(!error.is_transport(), "{name}: {error}");
    // registry.md section 2.1: the one thing a client may read out of a text.
    assert_eq!(error.is_not_found(), recorded.is_some_and(|text| text.contains("not found")), "{name}");
}

/// Whether `recorded` says what was made of it; a member that it lacks reads as empty, and it may say more.
fn says(recorded: &Value, made: &Value) -> bool {
    match (recorded, made) {
        (Value::Object(recorded), Value::Object(made)) => {
            made.iter().all(|(key, value)| says(recorded.get(key).unwrap_or(&Value::Null), value))
        }
        (Value::Array(recorded), Value::Array(made)) => {
            recorded.len() == made.len() && recorded.iter().zip(made).all(|(r, m)| says(r, m))
        }
        (Value::Null, made) => [json!(""), json!(0), json!(false), json!([]), Value::Null].contains(made),
        (recorded, made) => recorded == made,
    }
}

fn text(message: &[u8]) -> String {
    String::from_utf8_lossy(message).into_owned()
}

/// The client's methods for single operations.
#[derive(Clone, Copy, Debug)]
enum Method {
    Register,
    Heartbeat,
    Resolve,
    Lookup,
    PollHandshakes,
    RequestHandshake,
    RespondHandshake,
    ReportTrust,
    RevokeTrust,
    CheckTrust,
    SetVisibility,
    SetHostname,
    ResolveHostname,
    ListNodes,
    ListNetworks,
    JoinNetwork,
    LeaveNetwork,
}

impl Method {
    /// The method that sends such a request, when there is one: it knows all members and leaves none out. `signed`: the
    /// signature is the client's own.
    fn of(request: &Map<String, Value>, signed: bool) -> Option<Self> {
        let (method, members): (_, &[&str]) = match request.get("type")?.as_str()? {
            // An older node's registration carries no signature; a client without a key sends the same.
            "register" => {
                let required = ["listen_addr", "public_key"];
                let optional =
                    ["type", "signature", "owner", "hostname", "version", "lan_addrs", "relay_only"];
                let known = |key: &String| required.contains(&&**key) || optional.contains(&&**key);
                let fits = required.iter().all(|key| request.contains_key(*key)) && request.keys().all(known);
                return fits.then_some(Self::Register);
            }
            "heartbeat" => (Self::Heartbeat, &["node_id", "signature"]),
            "resolve" => (Self::Resolve, &["node_id", "requester_id", "signature"]),
            "lookup" => (Self::Lookup, &["node_id"]),
            "poll_handshakes" => (Self::PollHandshakes, &["node_id", "signature"]),
            "request_handshake" => {
                (Self::RequestHandshake, &["from_node_id", "to_node_id", "justification", "signature"])
            }
            "respond_handshake" => (Self::RespondHandshake, &["node_id", "peer_id", "accept", "signature"]),
            "report_trust" => (Self::ReportTrust, &["node_id", "peer_id", "signature"]),
            "revoke_trust" => (Self::RevokeTrust, &["node_id", "peer_id", "signature"]),
            "check_trust" => (Self::CheckTrust, &["node_id", "peer_id"]),
            "set_visibility" => (Self::SetVisibility, &["node_id", "public", "signature"]),
            "set_hostname" => (Self::SetHostname, &["node_id", "hostname", "signature"]),
            "resolve_hostname" if request.contains_key("requester_id") => {
                (Self::ResolveHostname, &["hostname", "requester_id"])
            }
            "resolve_hostname" => (Self::ResolveHostname, &["hostname"]),
            "list_nodes" => (Self::ListNodes, &["network_id"]),
            "list_networks" => (Self::ListNetworks, &[]),
            "join_network" => {
                (Self::JoinNetwork, &["node_id", "network_id", "token", "inviter_id", "signature"])
            }
            "leave_network" => (Self::LeaveNetwork, &["node_id", "network_id", "signature"]),
            _ => return None,
        };
        let same = request.len() == members.len() + 1 && members.iter().all(|key| request.contains_key(*key));
        // Numbers that are none cannot be passed to a method.
        let odd = |(key, value): (&String, &Value)| key.ends_with("_id") && !value.is_u64();
        let own = signed || !members.contains(&"signature");
        (same && own && !request.iter().any(odd)).then_some(method)
    }

    /// Calls it with what the request says; gives what the result says, under the names of the answer.
    async fn call(
        self,
        client: &RegistryClient,
        request: &Map<String, Value>,
    ) -> Result<Value, RegistryError> {
        let number = |key: &str| u32::try_from(request[key].as_u64().unwrap()).unwrap();
        let network = || u16::try_from(number("network_id")).unwrap();
        let text = |key: &str| replies::text(request, key);
        let flag = |key: &str| replies::flag(request, key);
        Ok(match self {
            Self::Register => {
                let what = Registration {
                    public_key: text("public_key"),
                    listen_addr: text("listen_addr"),
                    owner: text("owner"),
                    hostname: text("hostname"),
                    lan_addrs: request.get("lan_addrs").map_or_else(Vec::new, |list| {
                        list.as_array().unwrap().iter().map(|a| a.as_str().unwrap().to_owned()).collect()
                    }),
                    version: text("version"),
                    relay_only: flag("relay_only"),
                };
                let made = client.register(&what).await?;
                assert_eq!(client.node(), made.node_id);
                json!({
                    "node_id": made.node_id, "address": made.address, "hostname": made.hostname,
                    "hostname_error": made.hostname_error, "observed_addr": made.observed_addr,
                })
            }
            Self::Heartbeat => {
                let made = client.heartbeat().await?;
                json!({"time": made.time, "key_expiry_warning": made.key_expiry_warning})
            }
            Self::Resolve => {
                let made = client.resolve(number("node_id")).await?;
                json!({
                    "real_addr": made.real_addr, "lan_addrs": made.lan_addrs, "relay_only": made.relay_only,
                    "key_age_days": made.key_age_days,
                })
            }
            Self::Lookup => info(&client.lookup(number("node_id")).await?),
            Self::PollHandshakes => {
                let made = client.poll_handshakes().await?;
                let request = |r: &RelayedRequest| {
                    json!({
                        "from_node_id": r.from_node_id, "justification": r.justification,
                        "timestamp": r.timestamp,
                    })
                };
                let response = |r: &RelayedResponse| json!({"from_node_id": r.from_node_id, "accept": r.accept, "timestamp": r.timestamp});
                json!({
                    "requests": made.requests.iter().map(request).collect::<Vec<_>>(),
                    "responses": made.responses.iter().map(response).collect::<Vec<_>>(),
                })
            }
            Self::RequestHandshake => {
                client.request_handshake(number("to_node_id"), &text("justification")).await?;
                json!({})
            }
            Self::RespondHandshake => {
                client.respond_handshake(number("peer_id"), flag("accept")).await?;
                json!({})
            }
            Self::ReportTrust => client.report_trust(number("peer_id")).await.map(|()| json!({}))?,
            Self::RevokeTrust => client.revoke_trust(number("peer_id")).await.map(|()| json!({}))?,
            Self::CheckTrust => {
                json!({"trusted": client.check_trust(number("node_id"), number("peer_id")).await?})
            }
            Self::SetVisibility => client.set_visibility(flag("public")).await.map(|()| json!({}))?,
            Self::SetHostname => json!({"hostname": client.set_hostname(&text("hostname")).await?}),
            Self::ResolveHostname => info(&client.resolve_hostname(&text("hostname")).await?),
            Self::ListNodes => json!({"nodes": client.list_nodes(network()).await?}),
            Self::ListNetworks => json!({"networks": client.list_networks().await?}),
            Self::JoinNetwork => client.join_network(network(), &text("token")).await?.into(),
            Self::LeaveNetwork => client.leave_network(network()).await.map(|()| json!({}))?,
        })
    }
}

fn info(made: &NodeInfo) -> Value {
    json!({
        "node_id": made.node_id, "address": made.address, "public_key": made.public_key, "public": made.public,
        "hostname": made.hostname, "networks": made.networks, "tags": made.tags, "real_addr": made.real_addr,
        "version": made.version,
    })
}
