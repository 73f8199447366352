//! A document whose expressions are compiled, and what its rules say in a given context (policy.md section 3). Called by
//! the runner and the manager.
//!
//! Decides only; what follows from a directive is the runner's business.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pilot_wire::goquote::quote;
use plugin_abi::PolicyEvent;
use serde_json::{Map, Value};

use crate::document::{Action, ActionKind, Document, Rule, Verdict};
use crate::lang::{self, Context, Expression, Limits};
use crate::workers::{WorkError, Workers};

/// How long is waited for an expression on another thread: it ends by itself nearly always, and a busy machine is no reason
/// to give a thread up.
const RESULT_TIME: Duration = Duration::from_millis(200);
/// How long compiling a whole document may take.
const COMPILE_TIME: Duration = Duration::from_secs(5);
/// Evaluations of one document that may be on other threads at the same time; a further one is an evaluation error.
const MAX_EVALUATIONS: usize = 2;
/// The rule name of a verdict that no rule gave.
const DEFAULT_RULE: &str = "_default";

/// A compiled document.
#[derive(Debug)]
pub(crate) struct Policy {
    pub document: Document,
    conditions: Vec<Condition>,
    turns: Turns,
}

/// How many evaluations of one document are on other threads.
#[derive(Debug, Default)]
struct Turns(AtomicUsize);

struct Turn<'a>(&'a Turns);

impl Turns {
    fn take(&self) -> Option<Turn<'_>> {
        let more = |running| (running < MAX_EVALUATIONS).then_some(running + 1);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok().map(|_| Turn(self))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The expressions of one rule.
#[derive(Debug)]
struct Condition {
    applies: Expression,
    /// By action; only `evict_where` has one.
    evict_where: Vec<Option<Expression>>,
}

/// One thing to do, as a place in the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Directive {
    /// What.
    pub kind: ActionKind,
    /// Index of the rule; `None`: the default verdict.
    rule: Option<usize>,
    /// Index of the action in the rule.
    pub action: usize,
}

/// What the rules of a gate event came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub verdict: Verdict,
    /// In order, the verdict among them.
    pub directives: Vec<Directive>,
}

/// Why the rules came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("policy: rule {} eval: {cause}", quote(.rule))]
pub(crate) struct EvalError {
    /// The rule at fault.
    pub rule: String,
    cause: String,
}

impl Policy {
    /// Compiles on a thread that can take it. The error is the sentence that clients show.
    pub fn compile(document: Document, workers: &Arc<Workers>) -> Result<Policy, String> {
        workers
            .run(COMPILE_TIME, move || Policy::compile_here(document))
            .unwrap_or_else(|e| Err(format!("policy: {e}")))
    }

    fn compile_here(document: Document) -> Result<Policy, String> {
        let conditions = document.rules.iter().map(Condition::compile).collect::<Result<_, _>>()?;
        Ok(Policy { document, conditions, turns: Turns::default() })
    }

    /// The name of the rule a directive is from.
    pub fn rule_name(&self, directive: &Directive) -> &str {
        directive.rule.map_or(DEFAULT_RULE, |rule| self.document.rules[rule].name.as_str())
    }

    /// The params of a directive.
    pub fn params(&self, directive: &Directive) -> Option<&Map<String, Value>> {
        self.action(directive)?.params.as_ref()
    }

    fn action(&self, directive: &Directive) -> Option<&Action> {
        self.document.rules.get(directive.rule?)?.actions.get(directive.action)
    }

    /// What a gate event comes to: the rules in order up to the first that allows or denies.
    pub fn decide(
        self: &Arc<Self>,
        workers: &Arc<Workers>,
        event: PolicyEvent,
        context: &Context,
        now: f64,
    ) -> Result<Decision, EvalError> {
        let matching = self.matching(workers, event, context, now, true)?;
        let mut directives: Vec<Directive> =
            matching.iter().flat_map(|rule| self.directives(*rule)).collect();
        let verdict = directives.iter().find_map(Directive::verdict).unwrap_or_else(|| {
            let verdict = self.document.default_verdict.unwrap_or(Verdict::Allow);
            let kind = match verdict {
                Verdict::Allow => ActionKind::Allow,
                Verdict::Deny => ActionKind::Deny,
            };
            directives.push(Directive { kind, rule: None, action: 0 });
            verdict
        });
        Ok(Decision { verdict, directives })
    }

    /// What an action event comes to: the directives of all matching rules.
    pub fn directives_for(
        self: &Arc<Self>,
        workers: &Arc<Workers>,
        event: PolicyEvent,
        values: &Map<String, Value>,
        now: f64,
    ) -> Result<Vec<Directive>, EvalError> {
        let context = Context::new(lang::declared(event), values);
        let matching = self.matching(workers, event, &context, now, false)?;
        Ok(matching.into_iter().flat_map(|rule| self.directives(rule)).collect())
    }

    /// Whether the condition of one rule holds, by itself.
    pub fn applies(
        self: &Arc<Self>,
        workers: &Arc<Workers>,
        rule: usize,
        values: &Map<String, Value>,
        now: f64,
    ) -> Result<bool, EvalError> {
        let context = Context::new(lang::declared(self.document.rules[rule].on), values);
        let policy = self.clone();
        let work = move || policy.conditions[rule].applies.evaluate(&context, Limits::full(now));
        let result = workers.run(RESULT_TIME, work).unwrap_or_else(|e| Err(e.to_string()));
        result.map_err(|cause| EvalError { rule: self.document.rules[rule].name.clone(), cause })
    }

    /// Which of the peers described by `peers` an `evict_where` directive means; one that fails is not meant.
    pub fn meant(
        self: &Arc<Self>,
        workers: &Arc<Workers>,
        directive: &Directive,
        peers: &[Map<String, Value>],
        now: f64,
    ) -> Vec<bool> {
        let (policy, directive) = (self.clone(), *directive);
        let contexts: Vec<Context> = peers.iter().map(|values| Context::new(lang::PEER, values)).collect();
        let work = move |give: &dyn Fn(Result<bool, String>)| {
            let Some(expression) = policy.evict_where(&directive) else { return };
            for context in &contexts {
                give(expression.evaluate(context, Limits::full(now)));
            }
        };
        let mut meant = vec![false; peers.len()];
        let Ok(mut results) = workers.start(work) else { return meant };
        for slot in &mut meant {
            match results.next(RESULT_TIME) {
                Ok(Some(result)) => *slot = result.unwrap_or(false),
                Ok(None) | Err(_) => break,
            }
        }
        meant
    }

    fn evict_where(&self, directive: &Directive) -> Option<&Expression> {
        self.conditions.get(directive.rule?)?.evict_where.get(directive.action)?.as_ref()
    }

    /// What one rule does, in order.
    pub fn directives(&self, rule: usize) -> impl Iterator<Item = Directive> {
        let actions = self.document.rules[rule].actions.iter().enumerate();
        actions.map(move |(action, a)| Directive { kind: a.kind, rule: Some(rule), action })
    }

    fn is_verdict(&self, rule: usize) -> bool {
        self.document.rules[rule]
            .actions
            .iter()
            .any(|a| matches!(a.kind, ActionKind::Allow | ActionKind::Deny))
    }

    /// The rules of `event` whose condition holds, in order; with `to_verdict` up to the first that has a verdict. The
    /// first error discards everything.
    fn matching(
        self: &Arc<Self>,
        workers: &Arc<Workers>,
        event: PolicyEvent,
        context: &Context,
        now: f64,
        to_verdict: bool,
    ) -> Result<Vec<usize>, EvalError> {
        let rules = &self.document.rules;
        let fail = |rule: usize, cause: String| EvalError { rule: rules[rule].name.clone(), cause };
        let mut of_event = (0..rules.len()).filter(|rule| rules[*rule].on == event);
        let mut matching = Vec::new();
        // Most conditions are decided here; the first one that is not, and all behind it, are for a worker.
        let rest: Vec<usize> = loop {
            let Some(rule) = of_event.next() else { return Ok(matching) };
            match self.conditions[rule].applies.evaluate_here(context, Limits::near(now)) {
                None => break std::iter::once(rule).chain(of_event).collect(),
                Some(Err(cause)) => return Err(fail(rule, cause)),
                Some(Ok(false)) => {}
                Some(Ok(true)) => {
                    matching.push(rule);
                    if to_verdict && self.is_verdict(rule) {
                        return Ok(matching);
                    }
                }
            }
        };
        // One document must not take all threads from the others.
        let _turn = self.turns.take().ok_or_else(|| {
            fail(rest[0], format!("{MAX_EVALUATIONS} evaluations of this document are running already"))
        })?;
        let (policy, asked, context) = (self.clone(), rest.clone(), context.clone());
        let work = move |give: &dyn Fn(Result<bool, String>)| {
            for rule in asked {
                let result = policy.conditions[rule].applies.evaluate(&context, Limits::full(now));
                let last = result.is_err() || (result == Ok(true) && to_verdict && policy.is_verdict(rule));
                give(result);
                if last {
                    return;
                }
            }
        };
        let mut results = workers.start(work).map_err(|e| fail(rest[0], e.to_string()))?;
        for rule in rest {
            let result = results.next(RESULT_TIME).map_err(|e| fail(rule, e.to_string()))?;
            match result.ok_or_else(|| fail(rule, WorkError::Panicked.to_string()))? {
                Err(cause) => return Err(fail(rule, cause)),
                Ok(false) => {}
                Ok(true) => {
                    matching.push(rule);
                    if to_verdict && self.is_verdict(rule) {
                        break;
                    }
                }
            }
        }
        Ok(matching)
    }
}

impl Directive {
    /// The verdict, if this is one.
    pub fn verdict(&self) -> Option<Verdict> {
        match self.kind {
            ActionKind::Allow => Some(Verdict::Allow),
            ActionKind::Deny => Some(Verdict::Deny),
            _ => None,
        }
    }
}

impl Condition {
    fn compile(rule: &Rule) -> Result<Condition, String> {
        let name = quote(&rule.name);
        let applies = Expression::compile(&rule.condition, lang::declared(rule.on))
            .map_err(|cause| format!("policy: rule {name} match: {cause}"))?;
        let compile_action = |(index, action): (usize, &Action)| {
            if action.kind != ActionKind::EvictWhere {
                return Ok(None);
            }
            let text = action
                .params
                .as_ref()
                .and_then(|p| p.get("match"))
                .and_then(Value::as_str)
                .unwrap_or_default();
            if text.is_empty() {
                return Err(format!(
                    "policy: rule {name} action[{index}]: evict_where match must be a string"
                ));
            }
            let compiled = Expression::compile(text, lang::PEER);
            compiled
                .map(Some)
                .map_err(|e| format!("policy: rule {name} action[{index}] evict_where match: {e}"))
        };
        let evict_where = rule.actions.iter().enumerate().map(compile_action).collect::<Result<_, _>>()?;
        Ok(Condition { applies, evict_where })
    }
}
