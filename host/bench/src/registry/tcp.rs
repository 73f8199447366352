//! The client of the registry's metrics: many connections, one request at a time on each. The same code talks to the
//! rendezvous and to the server that does nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pilot_engine::identity::Identity;
use pilot_wire::registry::{
    MAGIC, MSG_ERROR, MSG_LOOKUP, MSG_LOOKUP_OK, MSG_RESOLVE, MSG_RESOLVE_OK, VERSION, challenge,
    decode_error, encode_frame, encode_lookup_req, encode_resolve_req,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Settings, median};

/// A registered node and its key.
#[derive(Clone, Debug)]
pub struct Node {
    id: u32,
    identity: Arc<Identity>,
}

/// Requests ready to be sent.
#[derive(Debug)]
pub struct Plan {
    /// Sent once per connection.
    preamble: Vec<u8>,
    /// Whole requests as they stand on the wire, all of one size.
    requests: Arc<Vec<Vec<u8>>>,
    /// Each may be sent once only.
    once: bool,
    /// The type byte of a good answer; JSON mode has none.
    good: Option<u8>,
    identities: Vec<Arc<Identity>>,
}

/// What a round found.
#[derive(Debug)]
pub struct Round {
    /// Answers per second.
    pub per_second: f64,
    /// Bytes of the last answer, header included.
    pub answer_len: usize,
    /// JSON mode: the answers of each connection.
    answers: Vec<Kept>,
}

/// Answers as they came, in one piece: what the client does with them should not be measured.
#[derive(Debug, Default)]
struct Kept {
    bytes: Vec<u8>,
    /// The number of the request, and where its answer ends.
    ends: Vec<(usize, usize)>,
}

impl Kept {
    fn push(&mut self, number: usize, answer: &[u8]) {
        self.bytes.extend_from_slice(answer);
        self.ends.push((number, self.bytes.len()));
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let mut start = 0;
        self.ends
            .iter()
            .map(move |(number, end)| (*number, &self.bytes[std::mem::replace(&mut start, *end)..*end]))
    }
}

/// Registrations made ready per millisecond of a round: more than any server on two cores takes.
const REGISTRATIONS_PER_MS: u64 = 40;

/// The same for resolves.
const RESOLVES_PER_MS: u64 = 80;
/// Nodes that are resolved.
const TARGETS: usize = 256;
/// Different requests of a round that asks for the same again.
const REPEATED: usize = 4096;

impl Plan {
    /// New keys, each with its request; `signed` as the newest nodes do it, or not, as older ones.
    pub fn registrations(settings: &Settings, signed: bool) -> Result<Plan> {
        let count = usize::try_from(settings.round_ms * REGISTRATIONS_PER_MS)?;
        let mut plan = Plan::new(Vec::new(), None, true);
        let mut requests = Vec::with_capacity(count);
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|e| anyhow::anyhow!("no random bytes: {e}"))?;
        for number in 0..count as u64 {
            seed[..8].copy_from_slice(&number.to_be_bytes());
            let identity = Identity::generate(seed);
            let (listen, key) = ("127.0.0.1:4000", identity.public_key_text());
            let signature = STANDARD.encode(identity.sign(challenge::register(listen, &key).as_bytes()));
            let mut body = json!({
                "type": "register", "listen_addr": listen, "public_key": key, "version": "bench",
            });
            if signed {
                body["signature"] = json!(signature);
            }
            let body = body.to_string();
            let mut request = u32::try_from(body.len())?.to_be_bytes().to_vec();
            request.extend_from_slice(body.as_bytes());
            requests.push(request);
            plan.identities.push(Arc::new(identity));
        }
        plan.requests = Arc::new(requests);
        Ok(plan)
    }

    /// Lookups of `nodes` in turn.
    pub async fn lookups(_registry: SocketAddr, _connections: usize, nodes: &[Node]) -> Result<Plan> {
        let requests = nodes.iter().take(10_000).map(|n| frame(MSG_LOOKUP, &encode_lookup_req(n.id)));
        let mut plan = Plan::new(preamble(), Some(MSG_LOOKUP_OK), false);
        plan.requests = Arc::new(requests.collect::<Result<_>>()?);
        ensure!(!plan.requests.is_empty(), "nothing was registered");
        Ok(plan)
    }

    /// The same requests over and over, few enough to be remembered.
    pub fn repeated(mut self) -> Plan {
        let few = self.requests.iter().take(REPEATED).cloned().collect();
        self.requests = Arc::new(few);
        self.once = false;
        self
    }

    fn new(preamble: Vec<u8>, good: Option<u8>, once: bool) -> Plan {
        Plan { preamble, requests: Arc::default(), once, good, identities: Vec::new() }
    }

    /// The nodes that a round of registrations made.
    pub fn nodes(&self, round: &Round) -> Result<Vec<Node>> {
        let mut nodes = Vec::new();
        for (number, answer) in round.answers.iter().flat_map(Kept::iter) {
            let answer: Value = serde_json::from_slice(answer)?;
            let id = answer["node_id"].as_u64().with_context(|| format!("register: {answer}"))?;
            let identity = self.identities.get(number).context("an answer to nothing")?.clone();
            nodes.push(Node { id: u32::try_from(id)?, identity });
        }
        Ok(nodes)
    }
}

/// Resolves of a few public nodes by all others; a private one would be found by the few that it trusts only.
#[derive(Debug)]
pub struct Resolves {
    targets: Vec<u32>,
    askers: Vec<Node>,
    per_round: usize,
    made: usize,
}

impl Resolves {
    /// Makes some nodes public.
    pub async fn new(registry: SocketAddr, settings: &Settings, nodes: &[Node]) -> Result<Self> {
        let mut link = TcpStream::connect(registry).await?;
        let (public, askers) = nodes.split_at(TARGETS.min(nodes.len() / 2));
        for node in public {
            let signature =
                STANDARD.encode(node.identity.sign(challenge::node_op("set_visibility", node.id).as_bytes()));
            let request =
                json!({"type": "set_visibility", "node_id": node.id, "public": true, "signature": signature});
            let answer: Value = serde_json::from_slice(&json_call(&mut link, &request).await?)?;
            ensure!(answer["type"] == "set_visibility_ok", "set_visibility: {answer}");
        }
        ensure!(!askers.is_empty(), "nothing was registered");
        Ok(Resolves {
            targets: public.iter().map(|node| node.id).collect(),
            askers: askers.to_vec(),
            per_round: usize::try_from(settings.round_ms * RESOLVES_PER_MS)?,
            made: 0,
        })
    }

    /// Requests whose signatures were never sent before.
    pub fn fresh(&mut self) -> Result<Plan> {
        let mut requests = Vec::with_capacity(self.per_round);
        for number in self.made..self.made + self.per_round {
            let asker = &self.askers[number % self.askers.len()];
            let target = self.targets.get(number / self.askers.len()).context("all pairs were used")?;
            let signature = asker.identity.sign(challenge::resolve(asker.id, *target).as_bytes());
            requests.push(frame(MSG_RESOLVE, &encode_resolve_req(*target, asker.id, &signature))?);
        }
        self.made += self.per_round;
        let mut plan = Plan::new(preamble(), Some(MSG_RESOLVE_OK), true);
        plan.requests = Arc::new(requests);
        Ok(plan)
    }
}

fn preamble() -> Vec<u8> {
    let mut preamble = MAGIC.to_vec();
    preamble.push(VERSION);
    preamble
}

fn frame(kind: u8, payload: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    encode_frame(kind, payload, &mut out)?;
    Ok(out)
}

async fn json_call(link: &mut TcpStream, message: &Value) -> Result<Vec<u8>> {
    let body = message.to_string();
    link.write_u32(u32::try_from(body.len())?).await?;
    link.write_all(body.as_bytes()).await?;
    let mut answer = vec![0; link.read_u32().await? as usize];
    link.read_exact(&mut answer).await?;
    Ok(answer)
}

/// Alternating rounds against the rendezvous and the bare server: the medians of both.
pub async fn measure(
    settings: &Settings,
    registry: SocketAddr,
    bare: SocketAddr,
    plan: &Plan,
) -> Result<(f64, f64)> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..settings.rounds {
        let found = round(settings, registry, plan).await?;
        ours.push(found.per_second);
        theirs.push(round_bare(settings, bare, plan, found.answer_len).await?);
    }
    Ok((median(&mut ours), median(&mut theirs)))
}

/// One round against the rendezvous.
pub async fn round(settings: &Settings, registry: SocketAddr, plan: &Plan) -> Result<Round> {
    run(settings, registry, plan, &plan.preamble, Answers::Framed(plan.good)).await
}

/// One round of the same requests against the bare server.
pub async fn round_bare(
    settings: &Settings,
    bare: SocketAddr,
    plan: &Plan,
    answer_len: usize,
) -> Result<f64> {
    let ask = plan.requests.first().map_or(0, Vec::len);
    let mut preamble = u32::try_from(ask)?.to_be_bytes().to_vec();
    preamble.extend_from_slice(&u32::try_from(answer_len)?.to_be_bytes());
    let answers = Answers::Fixed { ask, answer: answer_len };
    Ok(run(settings, bare, plan, &preamble, answers).await?.per_second)
}

#[derive(Clone, Copy, Debug)]
enum Answers {
    /// Length-prefixed; in binary mode of this type.
    Framed(Option<u8>),
    /// As agreed; requests are cut or padded to their size.
    Fixed { ask: usize, answer: usize },
}

async fn run(
    settings: &Settings,
    to: SocketAddr,
    plan: &Plan,
    preamble: &[u8],
    answers: Answers,
) -> Result<Round> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut links = Vec::new();
    for _ in 0..settings.connections {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let mut stream = BufReader::with_capacity(4096, stream);
        stream.write_all(preamble).await?;
        links.push(stream);
    }
    let started = Instant::now();
    let end = started + Duration::from_millis(settings.round_ms);
    let mut tasks = JoinSet::new();
    for stream in links {
        let work =
            Link { stream, requests: plan.requests.clone(), once: plan.once, next: next.clone(), answers };
        tasks.spawn(work.run(end));
    }
    let (mut count, mut round) = (0, Round { per_second: 0.0, answer_len: 0, answers: Vec::new() });
    while let Some(done) = tasks.join_next().await {
        let (answered, answer_len, kept) = done??;
        count += answered;
        round.answer_len = round.answer_len.max(answer_len);
        round.answers.push(kept);
    }
    round.per_second = count as f64 / started.elapsed().as_secs_f64();
    Ok(round)
}

struct Link {
    stream: BufReader<TcpStream>,
    requests: Arc<Vec<Vec<u8>>>,
    once: bool,
    next: Arc<AtomicUsize>,
    answers: Answers,
}

/// Answers counted, the length of the last one, and those of JSON mode.
type Tally = (usize, usize, Kept);

impl Link {
    async fn run(mut self, end: Instant) -> Result<Tally> {
        let (mut count, mut answer_len, mut kept) = (0, 0, Kept::default());
        let mut answer = Vec::new();
        let mut padded = Vec::new();
        while Instant::now() < end {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if self.once && number >= self.requests.len() {
                break;
            }
            let request = &self.requests[number % self.requests.len()];
            match self.answers {
                Answers::Framed(good) => {
                    self.stream.write_all(request).await?;
                    let len = self.stream.read_u32().await? as usize;
                    ensure!(len < 1 << 20, "an answer of {len} bytes");
                    answer.resize(len, 0);
                    answer_len = 4 + len;
                    if let Some(good) = good {
                        // The length counts the type byte.
                        self.stream.read_exact(&mut answer).await?;
                        match answer.split_first() {
                            Some((kind, _)) if *kind == good => {}
                            Some((&MSG_ERROR, text)) => bail!("the registry says: {}", decode_error(text)),
                            other => bail!("unexpected answer {other:?}"),
                        }
                    } else {
                        self.stream.read_exact(&mut answer).await?;
                        kept.push(number, &answer);
                    }
                }
                Answers::Fixed { ask, answer: size } => {
                    padded.clear();
                    padded.extend_from_slice(&request[..request.len().min(ask)]);
                    padded.resize(ask, b' ');
                    self.stream.write_all(&padded).await?;
                    answer.resize(size, 0);
                    self.stream.read_exact(&mut answer).await?;
                    answer_len = size;
                }
            }
            count += 1;
        }
        Ok((count, answer_len, kept))
    }
}
