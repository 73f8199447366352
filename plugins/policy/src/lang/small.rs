//! Which expressions are so small that they may run on the thread that asks: comparisons of variables and constants, and
//! what joins them. No loop, no text that grows, no pattern, hardly any nesting; they end within microseconds on any stack.
//! Most gates of real documents are like that. Called by `Expression::compile`.

use super::ast::{Binary, Expr, Node};

/// Deepest nesting. The engine takes some kilobytes of stack a level, and threads have at least 2 MiB.
const DEPTH: u32 = 10;
/// Most nodes, the elements of constant lists among them.
const NODES: u32 = 256;
/// Functions whose cost is that of their argument, once.
const FUNCTIONS: [&str; 4] = ["has_tag", "duration", "since", "len"];

/// Whether this is one.
pub(super) fn is_small(tree: &Expr) -> bool {
    let mut left = NODES;
    fits(tree, DEPTH, &mut left)
}

fn fits(e: &Expr, depth: u32, left: &mut u32) -> bool {
    let (Some(depth), Some(rest)) = (depth.checked_sub(1), left.checked_sub(1)) else { return false };
    *left = rest;
    match &e.node {
        Node::Nil | Node::Bool(_) | Node::Int(_) | Node::Float(_) | Node::Text(_) | Node::Name(_) => true,
        Node::Array(items) => items.iter().all(|item| fits(item, depth, left)),
        Node::Unary(_, operand) => fits(operand, depth, left),
        Node::Binary(Binary::Matches | Binary::Power, ..) => false,
        // A range is a list of its own size, except where it is only looked into.
        Node::Binary(Binary::Range, ..) => false,
        Node::Binary(_, a, b) => fits(a, depth, left) && fits(b, depth, left),
        Node::Conditional(a, b, c) => [a, b, c].into_iter().all(|part| fits(part, depth, left)),
        Node::Call { name, args } => {
            FUNCTIONS.contains(&name.as_str()) && args.iter().all(|arg| fits(arg, depth, left))
        }
        Node::Pointer(_)
        | Node::Map(_)
        | Node::Let(..)
        | Node::Member { .. }
        | Node::Slice { .. }
        | Node::Method { .. }
        | Node::Closure(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    #[test]
    fn comparisons_are_small_and_what_can_grow_is_not() {
        for (text, small) in [
            ("port == 22 and peer_age_s < duration(\"10m\")", true),
            ("has_tag(peer_tags, \"ops\") or port in [80, 443] and not (peer_id == 9)", true),
            ("(sender_rating ?? 1.0) < 0.25 ? true : members > 3", true),
            ("any(peer_tags, # == \"a\")", false),
            ("port in 1..1024", false),
            ("direction matches \"a+\"", false),
            ("let a = port; a > 5", false),
            ("repeat(\"a\", 5) == \"\"", false),
            ("2 ** 9 > port", false),
        ] {
            assert_eq!(is_small(&parse(text).unwrap()), small, "{text}");
        }
        let chain = vec!["port == 1"; 20].join(" and ");
        assert!(!is_small(&parse(&chain).unwrap()), "a chain is a level per link");
    }
}
