//! The tree as text for the engine. Called by `Expression::compile`.
//!
//! Everything the engine might read in two ways is settled here: each operation is in brackets, names bound by `let` are
//! numbered, text constants are raw, predicates have braces. And what the engine does differently from the Go peer, or
//! without limit, becomes a call of one of our own functions (`engine`): indexes, slices, ranges, maps, sums of text,
//! comparison of whole numbers that may be absent; the value of each `let`, of each step of a predicate and of each of
//! several arguments is metered.

use super::ast::{Binary, Expr, Node, Unary};
use super::{Kind, Variable};

/// The text of a checked tree.
pub(super) fn write(tree: &Expr, variables: &[Variable]) -> String {
    let mut writer = Writer { variables, bound: Vec::new(), next: 0, out: String::new() };
    writer.expr(tree);
    writer.out
}

struct Writer<'a> {
    variables: &'a [Variable],
    /// Names bound by `let` and their numbers, innermost last.
    bound: Vec<(String, u32)>,
    next: u32,
    out: String,
}

impl Writer<'_> {
    fn expr(&mut self, e: &Expr) {
        match &e.node {
            Node::Nil => self.put("nil"),
            Node::Bool(value) => self.put(if *value { "true" } else { "false" }),
            Node::Int(value) => self.put(&value.to_string()),
            // With a point or an exponent, so that it stays a float.
            Node::Float(value) => self.put(&format!("{value:?}")),
            Node::Text(value) => self.text(value),
            Node::Name(name) => match self.bound.iter().rev().find(|(bound, _)| bound == name) {
                Some((_, number)) => self.put(&format!("v{number}")),
                None => self.put(name),
            },
            Node::Pointer(name) => self.put(&format!("#{name}")),
            Node::Array(items) if items.iter().all(is_constant) => {
                self.put("[");
                self.list(items);
                self.put("]");
            }
            Node::Array(items) => self.call("p_list", items),
            Node::Map(entries) => {
                let flat: Vec<Expr> = entries.iter().flat_map(|(k, v)| [k.clone(), v.clone()]).collect();
                self.call("p_map", &flat);
            }
            Node::Unary(operator, operand) => {
                self.put(match operator {
                    Unary::Not => "(not (",
                    Unary::Minus => "(-(",
                    Unary::Plus => "(+(",
                });
                self.expr(operand);
                self.put("))");
            }
            Node::Binary(operator, left, right) => self.binary(*operator, left, right),
            Node::Conditional(condition, then, otherwise) => {
                self.put("(if ");
                self.expr(condition);
                self.put(" { ");
                self.expr(then);
                self.put(" } else { ");
                self.expr(otherwise);
                self.put(" })");
            }
            Node::Let(name, value, rest) => {
                let number = self.next;
                self.next += 1;
                // Statements are allowed in blocks only.
                self.put(&format!("(if true {{ let v{number} = p_step("));
                self.expr(value);
                self.put("); ");
                self.bound.push((name.clone(), number));
                self.expr(rest);
                self.bound.pop();
                self.put(" } else { nil })");
            }
            Node::Member { base, index, optional } => {
                self.put(if *optional { "p_member_of_any(" } else { "p_member(" });
                self.expr(base);
                self.put(", ");
                self.expr(index);
                self.put(")");
            }
            Node::Slice { base, from, to } => {
                self.put("p_slice(");
                self.expr(base);
                for bound in [from, to] {
                    self.put(", ");
                    match bound {
                        Some(bound) => self.expr(bound),
                        None => self.put("nil"),
                    }
                }
                self.put(")");
            }
            Node::Method { base, name, args } => {
                self.put("(");
                self.expr(base);
                self.put(&format!(").{name}("));
                self.list(args);
                self.put(")");
            }
            Node::Call { name, args } => match (name.as_str(), args.as_slice()) {
                // Without a predicate the engine may take the argument for one.
                ("count" | "sum", [list]) => {
                    self.put(&format!("{name}("));
                    self.expr(list);
                    self.put(", {#})");
                }
                ("groupBy", [list, predicate]) => {
                    self.put("groupBy(p_short(");
                    self.expr(list);
                    self.put("), ");
                    self.expr(predicate);
                    self.put(")");
                }
                _ => self.call(name, args),
            },
            Node::Closure(body) => {
                self.put("{p_step(");
                self.expr(body);
                self.put(")}");
            }
        }
    }

    fn binary(&mut self, operator: Binary, left: &Expr, right: &Expr) {
        match (operator, &right.node) {
            (Binary::Range, _) => self.pair("p_range", left, right),
            (Binary::Add, _) => self.pair("p_add", left, right),
            // The Go peer compares two whole numbers without looking whether they are there.
            (Binary::Equal, _) if self.is_whole(left) && self.is_whole(right) => {
                self.pair("p_same_int", left, right)
            }
            (Binary::NotEqual, _) if self.is_whole(left) && self.is_whole(right) => {
                self.put("(not ");
                self.pair("p_same_int", left, right);
                self.put(")");
            }
            // A range need not be made to look into it.
            (Binary::In, Node::Binary(Binary::Range, from, to)) => {
                self.put("p_within(");
                self.expr(left);
                for bound in [from, to] {
                    self.put(", ");
                    self.expr(bound);
                }
                self.put(")");
            }
            (Binary::In, Node::Array(_) | Node::Map(_)) => self.infix(operator, left, right, ""),
            // Nothing is in nothing.
            (Binary::In, _) => self.infix(operator, left, right, " ?? []"),
            _ => self.infix(operator, left, right, ""),
        }
    }

    fn infix(&mut self, operator: Binary, left: &Expr, right: &Expr, after: &str) {
        self.put("(");
        self.expr(left);
        self.put(&format!(" {} (", operator.sign()));
        self.expr(right);
        self.put(after);
        self.put("))");
    }

    fn pair(&mut self, function: &str, left: &Expr, right: &Expr) {
        self.put(function);
        self.put("(");
        self.expr(left);
        self.put(", ");
        self.expr(right);
        self.put(")");
    }

    fn call(&mut self, name: &str, args: &[Expr]) {
        self.put(name);
        self.put("(");
        self.list(args);
        self.put(")");
    }

    /// All items are alive at once before they come together, so each is metered as it comes.
    fn list(&mut self, items: &[Expr]) {
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                self.put(", ");
            }
            let metered = items.len() > 1 && !is_constant(item) && !matches!(item.node, Node::Closure(_));
            self.put(if metered { "p_step(" } else { "" });
            self.expr(item);
            self.put(if metered { ")" } else { "" });
        }
    }

    /// Raw text has no escapes and no back-quote; the latter comes from a double-quoted piece.
    fn text(&mut self, value: &str) {
        let pieces: Vec<String> = value.split('`').map(|piece| format!("`{piece}`")).collect();
        match pieces.as_slice() {
            [one] => self.put(one),
            _ => self.put(&format!("({})", pieces.join(" + \"`\" + "))),
        }
    }

    /// Whether both the Go peer and we know that this is a whole number or absent.
    fn is_whole(&self, e: &Expr) -> bool {
        match &e.node {
            Node::Int(_) => true,
            Node::Name(name) => self.variables.iter().any(|v| v.name == name && v.kind == Kind::Int),
            _ => false,
        }
    }

    fn put(&mut self, text: &str) {
        self.out.push_str(text);
    }
}

fn is_constant(e: &Expr) -> bool {
    matches!(e.node, Node::Int(_) | Node::Float(_) | Node::Text(_) | Node::Bool(_) | Node::Nil)
}
