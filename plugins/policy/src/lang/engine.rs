//! The engine that runs expressions, with our functions in it and limits around it (policy.md sections 2.2 and 9).
//! Called by `Expression`; expects only text that `write` made.
//!
//! A run has a budget of elements and a deadline. Both are looked at wherever a value grows or a loop goes round, so
//! that nearly every run ends by itself; the few functions of the engine that can take long without asking are bounded by
//! the size of what they may be given.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use expr::{ContextProvider, Environment, Value, bail};
use pilot_wire::goduration::GoDuration;
use serde_json::{Map, Value as Json};

use super::{Kind, Variable};

/// Elements that one run may make: members of lists and maps, and sixteenths of the bytes of texts.
const BUDGET: i64 = 1_000_000;
/// How long one run may take (policy.md section 1.2).
const TIME: Duration = Duration::from_millis(100);
/// The deadline is looked at once in so many charges; asking the clock costs more than the charge.
const CHARGES_PER_LOOK: u32 = 64;
/// The same for a run on the thread that asks, which may have more to do than this. The budget is what ends it, as a rule
/// within a millisecond; the time is longer, so that a thread that was made to wait does not give up what it has nearly
/// done. It looks at every charge, since a step of a loop over all the tags of a peer is not nothing.
const NEAR_BUDGET: i64 = 1_000;
const NEAR_TIME: Duration = Duration::from_millis(10);
/// Elements of all variables together; more is for a worker.
const NEAR_CONTEXT: usize = 256;
/// Elements of a list that a function may take which compares all with all.
const SHORT: usize = 10_000;

const TIMED_OUT: &str = "expression evaluation timed out";

/// What a run may take, and what time it is for `since`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Longest run.
    pub time: Duration,
    /// Most elements.
    pub elements: i64,
    /// The deadline is looked at once in so many charges.
    pub(super) charges_per_look: u32,
    /// Unix seconds.
    pub now: f64,
}

impl Limits {
    /// All that an expression may take.
    pub fn full(now: f64) -> Limits {
        Limits { time: TIME, elements: BUDGET, charges_per_look: CHARGES_PER_LOOK, now }
    }

    /// What it may take on the thread that asks.
    pub fn near(now: f64) -> Limits {
        Limits { time: NEAR_TIME, elements: NEAR_BUDGET, charges_per_look: 1, now }
    }
}

/// A variable's value, as the caller has it.
#[derive(Clone, Debug)]
pub(crate) enum Given {
    Int(i64),
    Float(f64),
    Text(String),
    Tags(Vec<String>),
}

/// The values of the variables of one event; those without one are nil.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    variables: &'static [Variable],
    /// In the order of `variables`.
    values: Vec<Value>,
}

impl Context {
    /// Takes the values of `variables` out of `values`, by type: a number for a float is a float however it is written.
    /// Other members are left out.
    pub fn new(variables: &'static [Variable], values: &Map<String, Json>) -> Context {
        let value = |v: &Variable| values.get(v.name).map_or(Value::Nil, |value| convert(v.kind, value));
        Context { variables, values: variables.iter().map(value).collect() }
    }

    /// The same from values that have a type. What is no variable is left out.
    pub fn of<const N: usize>(variables: &'static [Variable], given: [(&str, Given); N]) -> Context {
        let mut values = vec![Value::Nil; variables.len()];
        for (name, value) in given {
            let Some(at) = variables.iter().position(|v| v.name == name) else { continue };
            values[at] = match value {
                Given::Int(n) => Value::Integer(n),
                Given::Float(n) => Value::Float(n),
                Given::Text(text) => Value::String(text),
                Given::Tags(tags) => Value::Array(tags.into_iter().map(Value::String).collect()),
            };
        }
        Context { variables, values }
    }

    /// Whether it is small enough for a run on the thread that asks.
    pub fn is_near(&self) -> bool {
        self.values.iter().map(size).sum::<usize>() <= NEAR_CONTEXT
    }
}

impl ContextProvider for Context {
    fn get(&self, key: &str) -> Option<&Value> {
        // A handful of short names: looking through them is faster than hashing one.
        self.values.get(self.variables.iter().position(|v| v.name == key)?)
    }

    fn to_context(&self) -> expr::Context {
        self.variables.iter().map(|v| v.name).zip(self.values.iter().cloned()).collect()
    }
}

fn convert(kind: Kind, value: &Json) -> Value {
    let tags = |list: &Vec<Json>| list.iter().filter_map(Json::as_str).map(Value::from).collect();
    match (kind, value) {
        // A tag list that is there but empty may be null on its way here.
        (Kind::Tags, Json::Null) => Value::Array(Vec::new()),
        (Kind::Tags, Json::Array(list)) => Value::Array(tags(list)),
        (Kind::Int, Json::Number(n)) => {
            Value::Integer(n.as_i64().unwrap_or_else(|| n.as_f64().unwrap_or(0.0) as i64))
        }
        (Kind::Float, Json::Number(n)) => Value::Float(n.as_f64().unwrap_or(0.0)),
        (Kind::Text, Json::String(text)) => Value::String(text.clone()),
        _ => Value::Nil,
    }
}

/// A compiled expression.
pub(super) struct Program(expr::Program);

impl Program {
    /// Compiles text made by `write`.
    pub fn compile(text: &str) -> Result<Program, String> {
        match catch_unwind(|| expr::compile(text)) {
            Ok(compiled) => compiled.map(Program).map_err(|e| e.to_string()),
            Err(payload) => Err(panic_text(payload.as_ref())),
        }
    }

    /// Runs it; a result that is no bool is an error.
    pub fn run(&self, context: &Context, limits: Limits) -> Result<bool, String> {
        self.metered(context, limits).0
    }

    /// Runs it; `None` when it needs more than `limits`.
    pub fn try_run(&self, context: &Context, limits: Limits) -> Option<Result<bool, String>> {
        let (result, exhausted) = self.metered(context, limits);
        (!exhausted).then_some(result)
    }

    /// The result, and whether a limit was met.
    fn metered(&self, context: &Context, limits: Limits) -> (Result<bool, String>, bool) {
        METER.set(Some(Meter {
            left: limits.elements,
            charges: 0,
            charges_per_look: limits.charges_per_look,
            deadline: Instant::now() + limits.time,
            exhausted: false,
            now: limits.now,
        }));
        let result = catch_unwind(AssertUnwindSafe(|| ENVIRONMENT.run(&self.0, context)));
        let exhausted = METER.take().is_some_and(|meter| meter.exhausted);
        let result = match result {
            Ok(Ok(Value::Bool(value))) => Ok(value),
            Ok(Ok(other)) => Err(format!("expected bool, but got {other}")),
            Ok(Err(e)) => Err(e.to_string()),
            Err(payload) => Err(panic_text(payload.as_ref())),
        };
        (result, exhausted)
    }
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    format!("expression panic: {}", text.unwrap_or("no text"))
}

/// Whether a constant pattern of `matches` is a regular expression.
pub(super) fn check_pattern(pattern: &str) -> Result<(), String> {
    let mut context = expr::Context::default();
    context.insert("p", pattern);
    expr::eval("`` matches p", &context).map(drop).map_err(|e| e.to_string())
}

#[derive(Clone, Copy)]
struct Meter {
    left: i64,
    charges: u32,
    charges_per_look: u32,
    deadline: Instant,
    /// A limit was met.
    exhausted: bool,
    now: f64,
}

thread_local! {
    /// The meter of the run on this thread. The engine's functions get no state of ours, so it is kept beside them.
    static METER: Cell<Option<Meter>> = const { Cell::new(None) };
}

fn charge(elements: usize) -> expr::Result<()> {
    let Some(mut meter) = METER.get() else { return Ok(()) };
    let looks = meter.charges % meter.charges_per_look == 0;
    meter.left = meter.left.saturating_sub(i64::try_from(elements).unwrap_or(i64::MAX));
    meter.charges = meter.charges.wrapping_add(1);
    let refusal = match meter.left < 0 {
        true => Some("memory budget exceeded"),
        false => (looks && Instant::now() >= meter.deadline).then_some(TIMED_OUT),
    };
    meter.exhausted |= refusal.is_some();
    METER.set(Some(meter));
    match refusal {
        Some(text) => bail!("{text}"),
        None => Ok(()),
    }
}

/// How many elements a value has, itself included.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => 1 + text.len() / 16,
        Value::Bytes(bytes) => 1 + bytes.len() / 16,
        Value::Array(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Map(entries) => 1 + entries.values().map(|v| 1 + size(v)).sum::<usize>(),
        Value::KeyedMap(entries) => 1 + entries.iter().map(|(k, v)| size(k) + size(v)).sum::<usize>(),
        _ => 1,
    }
}

/// What a call of a function of the language may cost beyond the size of its arguments.
fn cost(name: &str, args: &[Value]) -> usize {
    let bytes = |i: usize| args.get(i).and_then(Value::as_string).map_or(0, str::len);
    let items = |i: usize| args.get(i).and_then(Value::as_array).map_or(0, <[Value]>::len);
    let count =
        |i: usize| args.get(i).and_then(Value::as_integer).map_or(0, |n| usize::try_from(n).unwrap_or(0));
    match name {
        "repeat" => bytes(0).saturating_mul(count(1)) / 16,
        "replace" => (bytes(0) / bytes(1).max(1) + 1).saturating_mul(bytes(2)) / 16,
        "join" => items(0).saturating_mul(bytes(1)) / 16,
        "split" | "splitAfter" => bytes(0) / bytes(1).max(1),
        "uniq" | "fromPairs" => items(0).saturating_mul(items(0)) / 64,
        _ => 0,
    }
}

/// Functions of the language that make something of the size of their arguments, or larger.
const METERED: [&str; 18] = [
    "repeat",
    "replace",
    "join",
    "split",
    "splitAfter",
    "uniq",
    "fromPairs",
    "toPairs",
    "concat",
    "flatten",
    "reverse",
    "sort",
    "take",
    "keys",
    "values",
    "upper",
    "lower",
    "string",
];

/// The language as it comes.
static LANGUAGE: LazyLock<Environment<'static>> = LazyLock::new(Environment::new);

/// The language with our functions.
static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    for name in METERED {
        environment.add_function(name, move |call| {
            charge(cost(name, &call.args) + call.args.iter().map(size).sum::<usize>())?;
            let made = LANGUAGE.eval_func(call.ctx, name, call.args, None)?;
            charge(size(&made))?;
            Ok(made)
        });
    }
    add_policy_functions(&mut environment);
    add_encodings(&mut environment);
    add_guards(&mut environment);
    environment
});

/// The three of policy.md section 2.2.
fn add_policy_functions(environment: &mut Environment<'static>) {
    environment.add_function("has_tag", |call| match call.args.as_slice() {
        [Value::Array(tags), name @ Value::String(_)] => Ok(tags.contains(name).into()),
        [Value::Nil, _] => bail!("interface conversion: interface {{}} is nil, not []string"),
        _ => bail!("has_tag takes tags and a name"),
    });
    environment.add_function("duration", |call| match call.args.as_slice() {
        [Value::String(text)] => match text.parse::<GoDuration>() {
            Ok(duration) => Ok(Value::Float(duration.as_nanos() as f64 / 1e9)),
            Err(e) => bail!("{e}"),
        },
        _ => bail!("duration takes a text"),
    });
    environment.add_function("since", |call| {
        let now = METER.get().map_or(0.0, |meter| meter.now);
        let unix = match call.args.as_slice() {
            [Value::Float(unix)] => *unix,
            [Value::Integer(unix)] => *unix as f64,
            _ => bail!("since takes a number"),
        };
        Ok(Value::Float(if unix <= 0.0 { 0.0 } else { now - unix }))
    });
}

/// Functions of the language that the engine has only together with a change of JSON for the whole build.
fn add_encodings(environment: &mut Environment<'static>) {
    environment.add_function("toJSON", |call| {
        let [value] = call.args.as_slice() else { bail!("toJSON takes one value") };
        charge(size(value))?;
        let text = serde_json::to_string_pretty(&to_json(value)).map_err(|e| failed(&e))?;
        charge(text.len() / 16)?;
        Ok(text.into())
    });
    environment.add_function("fromJSON", |call| match call.args.as_slice() {
        [Value::String(text)] => {
            charge(text.len())?;
            Ok(from_json(serde_json::from_str(text).map_err(|e| failed(&e))?))
        }
        _ => bail!("fromJSON takes a text"),
    });
    environment.add_function("toBase64", |call| match call.args.as_slice() {
        [value @ Value::String(text)] => {
            charge(2 * size(value))?;
            Ok(STANDARD.encode(text).into())
        }
        _ => bail!("toBase64 takes a text"),
    });
    environment.add_function("fromBase64", |call| match call.args.as_slice() {
        [value @ Value::String(text)] => {
            charge(size(value))?;
            let bytes = STANDARD.decode(text).map_err(|e| failed(&e))?;
            Ok(String::from_utf8_lossy(&bytes).into_owned().into())
        }
        _ => bail!("fromBase64 takes a text"),
    });
}

fn failed(error: &dyn std::error::Error) -> expr::Error {
    expr::Error::ExprError(error.to_string())
}

fn to_json(value: &Value) -> Json {
    match value {
        Value::Nil => Json::Null,
        Value::Bool(b) => (*b).into(),
        Value::Integer(n) => (*n).into(),
        Value::Float(f) => (*f).into(),
        Value::Array(items) => items.iter().map(to_json).collect(),
        Value::Map(entries) => entries.iter().map(|(k, v)| (k.clone(), to_json(v))).collect(),
        Value::KeyedMap(entries) => entries
            .iter()
            .map(|(k, v)| (k.as_string().map_or_else(|| k.to_string(), str::to_owned), to_json(v)))
            .collect(),
        Value::String(text) => text.clone().into(),
        other => other.to_string().into(),
    }
}

/// Every number becomes a float, as in the Go peer.
fn from_json(json: Json) -> Value {
    match json {
        Json::Null => Value::Nil,
        Json::Bool(b) => Value::Bool(b),
        Json::Number(n) => Value::Float(n.as_f64().unwrap_or(0.0)),
        Json::String(text) => Value::String(text),
        Json::Array(items) => Value::Array(items.into_iter().map(from_json).collect()),
        Json::Object(entries) => entries.into_iter().map(|(k, v)| (k, from_json(v))).collect(),
    }
}

/// The functions that `write` puts in place of what the engine does differently or without limit.
fn add_guards(environment: &mut Environment<'static>) {
    environment.add_function("p_step", |mut call| {
        let value = call.args.pop().unwrap_or_default();
        charge(size(&value))?;
        Ok(value)
    });
    environment.add_function("p_list", |call| {
        charge(call.args.iter().map(size).sum())?;
        Ok(Value::Array(call.args))
    });
    environment.add_function("p_map", |call| {
        charge(call.args.iter().map(size).sum())?;
        let mut entries = call.args.into_iter();
        let mut pairs = Vec::new();
        while let (Some(key), Some(value)) = (entries.next(), entries.next()) {
            let key = match key {
                Value::String(text) => text,
                other => other.to_string(),
            };
            pairs.push((key, value));
        }
        Ok(pairs.into_iter().collect())
    });
    environment.add_function("p_short", |mut call| match call.args.pop() {
        Some(Value::Array(items)) if items.len() > SHORT => bail!("array has more than {SHORT} elements"),
        other => Ok(other.unwrap_or_default()),
    });
    environment.add_function("p_range", |call| match call.args.as_slice() {
        [Value::Integer(from), Value::Integer(to)] => {
            let count = to.checked_sub(*from).and_then(|n| n.checked_add(1)).unwrap_or(i64::MAX).max(0);
            charge(usize::try_from(count).unwrap_or(usize::MAX))?;
            Ok(Value::Array((*from..=*to).map(Value::Integer).collect()))
        }
        _ => bail!("invalid range"),
    });
    environment.add_function("p_within", |call| match call.args.as_slice() {
        [Value::Integer(n), Value::Integer(from), Value::Integer(to)] => Ok((from..=to).contains(&n).into()),
        [Value::Float(n), Value::Integer(from), Value::Integer(to)] => {
            Ok((n.fract() == 0.0 && *n >= *from as f64 && *n <= *to as f64).into())
        }
        [_, Value::Integer(_), Value::Integer(_)] => Ok(false.into()),
        _ => bail!("invalid range"),
    });
    environment.add_function("p_add", |call| add(call.args));
    environment.add_function("p_same_int", |call| match call.args.as_slice() {
        [Value::Integer(a), Value::Integer(b)] => Ok((a == b).into()),
        _ => bail!("interface conversion: interface {{}} is nil, not int"),
    });
    environment.add_function("p_member", |call| member(call.args));
    environment.add_function("p_member_of_any", |call| match call.args.first() {
        Some(Value::Nil) => Ok(Value::Nil),
        _ => member(call.args),
    });
    environment.add_function("p_slice", |call| slice(call.args));
}

/// `+`, with the size of a text charged before it is made.
fn add(args: Vec<Value>) -> expr::Result<Value> {
    match args.as_slice() {
        [Value::Integer(a), Value::Integer(b)] => Ok(a.wrapping_add(*b).into()),
        [Value::Float(a), Value::Float(b)] => Ok((a + b).into()),
        [Value::Integer(a), Value::Float(b)] => Ok((*a as f64 + b).into()),
        [Value::Float(a), Value::Integer(b)] => Ok((a + *b as f64).into()),
        [a @ Value::String(x), b @ Value::String(y)] => {
            charge(size(a) + size(b))?;
            Ok(format!("{x}{y}").into())
        }
        [Value::DateTime(_) | Value::Duration(_), Value::DateTime(_) | Value::Duration(_)] => {
            let mut context = expr::Context::default();
            for (name, value) in ["a", "b"].into_iter().zip(args) {
                context.insert(name, value);
            }
            LANGUAGE.eval("a + b", &context)
        }
        _ => bail!("invalid operation: +"),
    }
}

/// `base[index]`; what is out of range is an error for lists and nil for maps.
fn member(mut args: Vec<Value>) -> expr::Result<Value> {
    match args.as_mut_slice() {
        [Value::Array(items), Value::Integer(index)] => match position(*index, items.len()) {
            Some(at) => Ok(items.swap_remove(at)),
            None => bail!("index out of range: {index} (array length is {})", items.len()),
        },
        [Value::Map(entries), Value::String(key)] => {
            Ok(entries.swap_remove(key.as_str()).unwrap_or_default())
        }
        [Value::KeyedMap(entries), key] => {
            Ok(entries.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone()).unwrap_or_default())
        }
        [base, index] => bail!("cannot fetch {index} from {base}"),
        _ => bail!("cannot fetch"),
    }
}

/// A negative index counts from the end.
fn position(index: i64, len: usize) -> Option<usize> {
    let at = if index < 0 { i64::try_from(len).ok()?.checked_add(index)? } else { index };
    usize::try_from(at).ok().filter(|at| *at < len)
}

/// `base[from:to]`; bounds are cut to what is there. Texts are cut at bytes, as the Go peer does.
fn slice(args: Vec<Value>) -> expr::Result<Value> {
    let [base, from, to] = args.as_slice() else { bail!("cannot slice") };
    let len = match base {
        Value::Array(items) => items.len(),
        Value::String(text) => text.len(),
        other => bail!("cannot slice {other}"),
    };
    let bound = |bound: &Value, absent: usize| match bound {
        Value::Nil => Ok(absent),
        Value::Integer(n) if *n < 0 => {
            Ok(len.saturating_sub(usize::try_from(n.unsigned_abs()).unwrap_or(usize::MAX)))
        }
        Value::Integer(n) => Ok(usize::try_from(*n).unwrap_or(usize::MAX).min(len)),
        other => Err(expr::Error::ExprError(format!("invalid slice index {other}"))),
    };
    let (from, to) = (bound(from, 0)?, bound(to, len)?);
    let from = from.min(to);
    match base {
        Value::Array(items) => {
            charge(to - from)?;
            Ok(Value::Array(items[from..to].to_vec()))
        }
        Value::String(text) => Ok(String::from_utf8_lossy(&text.as_bytes()[from..to]).into_owned().into()),
        _ => bail!("cannot slice"),
    }
}
