//! Which expressions are tried on the thread that asks, before one with a large stack is asked for (policy.md section 9).
//!
//! Handing a condition to another thread and waking up again costs more than most conditions do. So a condition that is
//! nested little is tried where it is asked for, with a small budget and a short time (`Limits::near`); what runs out of
//! either starts anew on a worker, with the whole of both. This module says which ones may be tried: those of which every
//! part ends soon whatever it is given, or is metered at every step. Called by `Expression::compile`.

use super::ast::{Binary, Expr, Node};

/// Deepest nesting of the tree. The engine takes some kilobytes of stack a level (a test measures that), threads have at
/// least 2 MiB.
const DEPTH: u32 = 24;
/// Most nodes, the elements of constant lists among them.
const NODES: u32 = 256;

/// Functions that take no longer than their arguments are large, or are metered. Not among them: what compares all elements
/// with all, what reads JSON (nesting of its own), clocks and time zones.
const FUNCTIONS: [&str; 55] = [
    "has_tag",
    "duration",
    "since",
    "all",
    "any",
    "one",
    "none",
    "filter",
    "map",
    "count",
    "sum",
    "find",
    "findLast",
    "findIndex",
    "findLastIndex",
    "reduce",
    "trim",
    "trimPrefix",
    "trimSuffix",
    "upper",
    "lower",
    "split",
    "splitAfter",
    "replace",
    "repeat",
    "join",
    "indexOf",
    "lastIndexOf",
    "hasPrefix",
    "hasSuffix",
    "abs",
    "ceil",
    "floor",
    "round",
    "int",
    "float",
    "max",
    "min",
    "mean",
    "median",
    "bitand",
    "bitor",
    "bitxor",
    "bitnand",
    "bitnot",
    "bitshl",
    "bitshr",
    "bitushr",
    "len",
    "first",
    "last",
    "get",
    "take",
    "concat",
    "string",
];

/// Whether this one may be tried.
pub(super) fn is_near(tree: &Expr) -> bool {
    let mut left = NODES;
    fits(tree, DEPTH, &mut left)
}

fn fits(e: &Expr, depth: u32, left: &mut u32) -> bool {
    let (Some(depth), Some(rest)) = (depth.checked_sub(1), left.checked_sub(1)) else { return false };
    *left = rest;
    let mut all = |parts: &[&Expr]| parts.iter().all(|part| fits(part, depth, left));
    match &e.node {
        Node::Nil | Node::Bool(_) | Node::Int(_) | Node::Float(_) | Node::Text(_) => true,
        Node::Name(_) | Node::Pointer(_) => true,
        Node::Array(items) => items.iter().all(|item| fits(item, depth, left)),
        Node::Map(entries) => entries.iter().all(|(k, v)| fits(k, depth, left) && fits(v, depth, left)),
        Node::Unary(_, operand) | Node::Closure(operand) => all(&[operand]),
        // Patterns are compiled when they are not constant, and are not metered.
        Node::Binary(Binary::Matches, ..) => false,
        Node::Binary(_, a, b) | Node::Let(_, a, b) => all(&[a, b]),
        Node::Conditional(a, b, c) => all(&[a, b, c]),
        Node::Member { base, index, .. } => all(&[base, index]),
        Node::Slice { base, from, to } => {
            all(&[base]) && [from, to].into_iter().flatten().all(|bound| fits(bound, depth, left))
        }
        Node::Call { name, args } => {
            FUNCTIONS.contains(&name.as_str()) && args.iter().all(|arg| fits(arg, depth, left))
        }
        // Only times have methods.
        Node::Method { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    #[test]
    fn what_ends_soon_or_is_metered_is_near() {
        for (text, near) in [
            ("port == 22 and peer_age_s < duration(\"10m\")", true),
            ("has_tag(peer_tags, \"ops\") or port in [80, 443] and not (peer_id == 9)", true),
            ("(sender_rating ?? 1.0) < 0.25 ? true : members > 3", true),
            ("any(peer_tags, # == \"a\")", true),
            ("port in 1..1024", true),
            ("all(1..20000000, # > 0)", true),
            ("let a = port; a > 5", true),
            ("repeat(\"a\", 5) == \"\"", true),
            ("peer_tags[0] startsWith \"a\" and len(peer_tags[1:]) > 2", true),
            ("direction matches \"a+\"", false),
            ("len(uniq(peer_tags)) > 1", false),
            ("fromJSON(\"[]\") == nil", false),
            ("now().Hour() > 5", false),
        ] {
            assert_eq!(is_near(&parse(text).unwrap()), near, "{text}");
        }
    }

    #[test]
    fn nesting_and_size_have_limits() {
        let chain = |links: u32| vec!["port == 1"; links as usize].join(" and ");
        assert!(is_near(&parse(&chain(DEPTH - 2)).unwrap()));
        assert!(!is_near(&parse(&chain(DEPTH)).unwrap()), "a chain is a level per link");
        let list = |items: u32| format!("port in [{}]", vec!["1"; items as usize].join(", "));
        assert!(is_near(&parse(&list(NODES - 3)).unwrap()));
        assert!(!is_near(&parse(&list(NODES)).unwrap()));
    }
}
