//! The expression language (policy.md section 2): text in, a condition that can be evaluated out. Called by `compiled`.
//!
//! The engine underneath is a port of the Go peer's own language, but it accepts much that the Go peer refuses, knows no
//! types before it runs, and has no limits. So an expression takes this way:
//!
//! | step | module | does |
//! |---|---|---|
//! | 1 | `token`, `parse`, `ast` | the grammar, limits on size and nesting |
//! | 2 | `types`, `builtins` | names, types, arguments; the result must be a bool |
//! | 3 | `write` | the same expression in a form that leaves the engine no choice, guards included |
//! | 4 | `engine` | the engine with our functions, a budget and a deadline |
//!
//! Nothing here starts a thread; deep recursion and long runs are the caller's concern, see `workers`. Expressions that
//! may be tried without one say so (`near`).

mod ast;
mod builtins;
mod engine;
mod near;
mod parse;
mod token;
mod types;
mod write;

use std::fmt;

use plugin_abi::PolicyEvent;

pub(crate) use engine::{Context, Given, Limits};

use types::Type;

/// What a variable holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Int,
    Float,
    Text,
    Tags,
}

impl Kind {
    fn as_type(self) -> Type {
        match self {
            Kind::Int => Type::Int,
            Kind::Float => Type::Float,
            Kind::Text => Type::Text,
            Kind::Tags => Type::Tags,
        }
    }
}

/// A name that an expression may use. It may still have no value when the expression runs; it is then nil.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Variable {
    pub name: &'static str,
    pub kind: Kind,
}

const fn variable(name: &'static str, kind: Kind) -> Variable {
    Variable { name, kind }
}

const DATAGRAM: &[Variable] = &[
    variable("peer_id", Kind::Int),
    variable("port", Kind::Int),
    variable("network_id", Kind::Int),
    variable("peer_tags", Kind::Tags),
    variable("peer_age_s", Kind::Float),
    variable("members", Kind::Int),
    variable("sender_rating", Kind::Float),
    variable("local_tags", Kind::Tags),
    variable("size", Kind::Int),
    variable("direction", Kind::Text),
];

const CYCLE: &[Variable] = &[
    variable("network_id", Kind::Int),
    variable("members", Kind::Int),
    variable("peer_count", Kind::Int),
    variable("cycle_num", Kind::Int),
    variable("trusted_count", Kind::Int),
    variable("peer_id", Kind::Int),
    variable("peer_tags", Kind::Tags),
    variable("peer_age_s", Kind::Float),
    variable("local_tags", Kind::Tags),
];

const JOIN: &[Variable] = &[
    variable("peer_id", Kind::Int),
    variable("network_id", Kind::Int),
    variable("local_tags", Kind::Tags),
    variable("members", Kind::Int),
];

/// The variables of `evict_where` (policy.md section 2.1, last row).
pub(crate) const PEER: &[Variable] = &[
    variable("peer_id", Kind::Int),
    variable("peer_tags", Kind::Tags),
    variable("peer_age_s", Kind::Float),
    variable("last_seen", Kind::Float),
];

/// The variables that rules of an event may use (policy.md section 2.1).
pub(crate) fn declared(event: PolicyEvent) -> &'static [Variable] {
    match event {
        PolicyEvent::Datagram => DATAGRAM,
        // A datagram has two more at the end.
        PolicyEvent::Connect | PolicyEvent::Dial => &DATAGRAM[..DATAGRAM.len() - 2],
        PolicyEvent::Cycle => CYCLE,
        PolicyEvent::Join => JOIN,
        // A join has one more at the end.
        PolicyEvent::Leave => &JOIN[..JOIN.len() - 1],
    }
}

/// A condition, ready to be evaluated any number of times.
pub(crate) struct Expression(Form);

enum Form {
    /// `true` or `false`: the most common condition needs no engine.
    Constant(bool),
    Program {
        program: Box<engine::Program>,
        /// Whether it may be tried on any thread, see `near`.
        near: bool,
    },
}

impl Expression {
    /// Reads and judges `text`. The error is the cause behind the rule's name.
    pub fn compile(text: &str, variables: &'static [Variable]) -> Result<Expression, String> {
        let tree = parse::parse(text).map_err(|e| e.in_text(text))?;
        let found = types::check(&tree, variables).map_err(|e| e.in_text(text))?;
        if !matches!(found, Type::Bool | Type::Any) {
            return Err(format!("expected bool, but got {found}"));
        }
        let form = match tree.node {
            ast::Node::Bool(value) => Form::Constant(value),
            _ => {
                let program = Box::new(engine::Program::compile(&write::write(&tree, variables))?);
                Form::Program { program, near: near::is_near(&tree) }
            }
        };
        Ok(Expression(form))
    }

    /// Evaluates it on any thread, within `limits`, which should be [`Limits::near`]. `None`: it needs
    /// [`evaluate`](Self::evaluate). The error is the cause behind the rule's name.
    pub fn evaluate_here(&self, context: &Context, limits: Limits) -> Option<Result<bool, String>> {
        match &self.0 {
            Form::Constant(value) => Some(Ok(*value)),
            Form::Program { program, near: true } if context.is_near() => program.try_run(context, limits),
            Form::Program { .. } => None,
        }
    }

    /// Evaluates it. The error is the cause behind the rule's name. Needs a large stack, see `workers`.
    pub fn evaluate(&self, context: &Context, limits: Limits) -> Result<bool, String> {
        match &self.0 {
            Form::Constant(value) => Ok(*value),
            Form::Program { program, .. } => program.run(context, limits),
        }
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Form::Constant(true) => "Expression(true)",
            Form::Constant(false) => "Expression(false)",
            Form::Program { .. } => "Expression(..)",
        })
    }
}

/// Why an expression is refused, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refusal {
    /// Offset in bytes.
    at: usize,
    text: String,
}

impl Refusal {
    fn new(at: usize, text: impl Into<String>) -> Refusal {
        Refusal { at, text: text.into() }
    }

    /// The sentence with line and column, both from 1.
    fn in_text(&self, source: &str) -> String {
        let before = source.get(..self.at).unwrap_or(source);
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        format!("{} ({line}:{column})", self.text)
    }
}

#[cfg(test)]
mod tests;
