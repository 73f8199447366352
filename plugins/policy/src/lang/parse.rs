//! Tokens to a tree: precedence and associativity of policy.md section 2.3, and the limits of section 9. Called by
//! `Expression::compile`.
//!
//! Recursion is bounded by [`MAX_NESTING`] and [`MAX_OPERATORS`], so no text can exhaust the stack here.

use super::Refusal;
use super::ast::{Binary, Expr, Node, Unary};
use super::builtins;
use super::token::{Kind, Token, tokens};

/// Longest text, in bytes.
pub(crate) const MAX_TEXT: usize = 4096;
/// Brackets inside brackets.
const MAX_NESTING: u32 = 64;
/// Operators, calls and `let`s of one expression.
const MAX_OPERATORS: u32 = 200;
/// Binds weakest: a whole expression, in which `let` and `?:` are allowed.
const WHOLE: u8 = 0;

/// Parses a whole text.
pub(super) fn parse(text: &str) -> Result<Expr, Refusal> {
    if text.len() > MAX_TEXT {
        return Err(Refusal::new(0, format!("expression is longer than {MAX_TEXT} bytes")));
    }
    let mut parser = Parser { tokens: tokens(text)?, at: 0, nesting: 0, operators: 0, closures: 0 };
    let tree = parser.expression(WHOLE)?;
    match parser.kind() {
        Kind::End => Ok(tree),
        _ => Err(parser.unexpected()),
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    nesting: u32,
    operators: u32,
    /// Predicates around the present place; `#` means something only inside one.
    closures: u32,
}

/// Operator, precedence, and whether it is right-associative.
fn infix(kind: &Kind) -> Option<(Binary, u8, bool)> {
    let spelling = match kind {
        Kind::Sign(sign) => sign,
        Kind::Word(word) => word.as_str(),
        _ => return None,
    };
    Some(match spelling {
        "or" | "||" => (Binary::Or, 10, false),
        "and" | "&&" => (Binary::And, 15, false),
        "==" => (Binary::Equal, 20, false),
        "!=" => (Binary::NotEqual, 20, false),
        "<" => (Binary::Less, 20, false),
        "<=" => (Binary::LessOrEqual, 20, false),
        ">" => (Binary::Greater, 20, false),
        ">=" => (Binary::GreaterOrEqual, 20, false),
        "in" => (Binary::In, 20, false),
        "contains" => (Binary::Contains, 20, false),
        "startsWith" => (Binary::StartsWith, 20, false),
        "endsWith" => (Binary::EndsWith, 20, false),
        "matches" => (Binary::Matches, 20, false),
        ".." => (Binary::Range, 25, false),
        "+" => (Binary::Add, 30, false),
        "-" => (Binary::Subtract, 30, false),
        "*" => (Binary::Multiply, 60, false),
        "/" => (Binary::Divide, 60, false),
        "%" => (Binary::Modulo, 60, false),
        "**" | "^" => (Binary::Power, 100, true),
        "??" => (Binary::Coalesce, 200, false),
        _ => return None,
    })
}

/// Prefix operator and the precedence of its operand.
fn prefix(kind: &Kind) -> Option<(Unary, u8)> {
    match kind {
        Kind::Sign("!") => Some((Unary::Not, 50)),
        Kind::Word(word) if word == "not" => Some((Unary::Not, 50)),
        Kind::Sign("-") => Some((Unary::Minus, 90)),
        Kind::Sign("+") => Some((Unary::Plus, 90)),
        _ => None,
    }
}

/// Words that cannot be names.
fn is_reserved(word: &str) -> bool {
    matches!(word, "let" | "if" | "else" | "not") || infix(&Kind::Word(word.to_owned())).is_some()
}

fn binary(operator: Binary, left: Expr, right: Expr) -> Expr {
    Expr { at: left.at, node: Node::Binary(operator, Box::new(left), Box::new(right)) }
}

impl Parser {
    fn expression(&mut self, precedence: u8) -> Result<Expr, Refusal> {
        if precedence == WHOLE && self.is_word("let") {
            return self.binding();
        }
        if self.is_word("if") {
            return self.if_else();
        }
        let mut left = self.operand()?;
        let mut after_coalesce = false;
        loop {
            if precedence == WHOLE && self.accept("|") {
                left = self.pipe(left)?;
                after_coalesce = false;
                continue;
            }
            let negated = self.is_word("not");
            let operator = if negated { self.peek(1) } else { self.kind() };
            let Some((operator, binds, right_associative)) =
                infix(operator).filter(|(_, p, _)| *p >= precedence)
            else {
                if negated && infix(self.peek(1)).is_none() {
                    return Err(self.unexpected());
                }
                break;
            };
            if negated && !operator.takes_not() {
                return Err(self.unexpected());
            }
            self.at += usize::from(negated);
            if after_coalesce && operator != Binary::Coalesce {
                let text = "and coalesce expressions (??) cannot be mixed. Wrap either by parentheses.";
                return Err(self.refuse(format!("Operator ({}) {text}", operator.sign())));
            }
            self.advance();
            self.count()?;
            left = if operator.is_order() {
                self.comparison(left, operator, binds)?
            } else {
                let right = self.expression(if right_associative { binds } else { binds + 1 })?;
                binary(operator, left, right)
            };
            if negated {
                left = Expr { at: left.at, node: Node::Unary(Unary::Not, Box::new(left)) };
            }
            after_coalesce = operator == Binary::Coalesce;
        }
        if precedence == WHOLE { self.conditional(left) } else { Ok(left) }
    }

    /// `a < b <= c` means `a < b and b <= c`. What stands in the middle gets a name of its own instead of being repeated,
    /// since repetitions inside repetitions would grow without bound.
    fn comparison(&mut self, left: Expr, operator: Binary, binds: u8) -> Result<Expr, Refusal> {
        let right = self.expression(binds + 1)?;
        let Some((next, _, _)) = infix(self.kind()).filter(|(next, _, _)| next.is_order()) else {
            return Ok(binary(operator, left, right));
        };
        self.advance();
        self.count()?;
        // No name that is written in an expression has a blank in it.
        let name = format!("middle {}", self.at);
        let middle = || Expr { at: right.at, node: Node::Name(name.clone()) };
        let at = left.at;
        let first = binary(operator, left, middle());
        let rest = self.comparison(middle(), next, binds)?;
        let both = binary(Binary::And, first, rest);
        Ok(Expr { at, node: Node::Let(name, Box::new(right), Box::new(both)) })
    }

    /// `c ? a : b`, `c ?: b`, any number of times.
    fn conditional(&mut self, mut condition: Expr) -> Result<Expr, Refusal> {
        while self.accept("?") {
            self.count()?;
            let then = if self.kind() == &Kind::Sign(":") {
                // The condition again, which is known to be true at this place.
                Expr { at: condition.at, node: Node::Bool(true) }
            } else {
                self.expression(WHOLE)?
            };
            self.expect(":")?;
            let otherwise = self.expression(WHOLE)?;
            let at = condition.at;
            let node = Node::Conditional(Box::new(condition), Box::new(then), Box::new(otherwise));
            condition = Expr { at, node };
        }
        Ok(condition)
    }

    /// `let name = value; rest`.
    fn binding(&mut self) -> Result<Expr, Refusal> {
        let at = self.position();
        self.advance();
        self.count()?;
        let name = self.name()?;
        self.expect("=")?;
        let value = self.expression(WHOLE)?;
        self.expect(";")?;
        let rest = self.expression(WHOLE)?;
        Ok(Expr { at, node: Node::Let(name, Box::new(value), Box::new(rest)) })
    }

    /// `if c { a } else { b }`, with `else if` in place of the second block.
    fn if_else(&mut self) -> Result<Expr, Refusal> {
        let at = self.position();
        self.advance();
        self.count()?;
        let condition = self.expression(WHOLE)?;
        let then = self.block()?;
        if !self.is_word("else") {
            return Err(self.unexpected());
        }
        self.advance();
        let otherwise = if self.is_word("if") { self.if_else()? } else { self.block()? };
        Ok(Expr { at, node: Node::Conditional(Box::new(condition), Box::new(then), Box::new(otherwise)) })
    }

    fn block(&mut self) -> Result<Expr, Refusal> {
        self.expect("{")?;
        let inside = self.nested(|p| p.expression(WHOLE))?;
        self.expect("}")?;
        Ok(inside)
    }

    /// `value | call(rest)`: the value becomes the first argument.
    fn pipe(&mut self, value: Expr) -> Result<Expr, Refusal> {
        let at = self.position();
        let name = self.name()?;
        if self.kind() != &Kind::Sign("(") {
            return Err(self.unexpected());
        }
        let call = self.call(at, name, vec![value])?;
        self.postfix(call)
    }

    fn operand(&mut self) -> Result<Expr, Refusal> {
        let at = self.position();
        if let Some((operator, binds)) = prefix(self.kind()) {
            self.advance();
            self.count()?;
            let operand = self.expression(binds)?;
            return self.postfix(Expr { at, node: Node::Unary(operator, Box::new(operand)) });
        }
        let primary = self.primary(at)?;
        self.postfix(primary)
    }

    fn primary(&mut self, at: usize) -> Result<Expr, Refusal> {
        let leaf = |node| Ok(Expr { at, node });
        match self.kind().clone() {
            Kind::Int(value) => self.take(leaf(Node::Int(value))),
            Kind::Float(value) => self.take(leaf(Node::Float(value))),
            Kind::Text(value) => self.take(leaf(Node::Text(value))),
            Kind::Word(word) => match word.as_str() {
                "true" => self.take(leaf(Node::Bool(true))),
                "false" => self.take(leaf(Node::Bool(false))),
                "nil" => self.take(leaf(Node::Nil)),
                word if is_reserved(word) => Err(self.unexpected()),
                _ => {
                    self.advance();
                    if self.kind() == &Kind::Sign("(") {
                        self.call(at, word, vec![])
                    } else {
                        leaf(Node::Name(word))
                    }
                }
            },
            Kind::Sign("(") => {
                self.advance();
                let inside = self.nested(|p| p.expression(WHOLE))?;
                self.expect(")")?;
                Ok(inside)
            }
            Kind::Sign("[") => {
                self.advance();
                let items = self.list("]", |p| p.expression(WHOLE))?;
                Ok(Expr { at, node: Node::Array(items) })
            }
            Kind::Sign("{") => {
                self.advance();
                let entries = self.list("}", Parser::map_entry)?;
                Ok(Expr { at, node: Node::Map(entries) })
            }
            Kind::Sign("#") if self.closures > 0 => {
                self.advance();
                let name = match self.kind().clone() {
                    Kind::Word(word) if !is_reserved(&word) => {
                        self.advance();
                        word
                    }
                    _ => String::new(),
                };
                leaf(Node::Pointer(name))
            }
            // `.name` is short for `#.name`.
            Kind::Sign(".") if self.closures > 0 => leaf(Node::Pointer(String::new())),
            _ => Err(self.unexpected()),
        }
    }

    fn map_entry(&mut self) -> Result<(Expr, Expr), Refusal> {
        let at = self.position();
        let key = match self.kind().clone() {
            Kind::Word(word) => self.take(Ok(Expr { at, node: Node::Text(word) }))?,
            Kind::Text(_) | Kind::Int(_) | Kind::Sign("(") => self.primary(at)?,
            _ => return Err(self.unexpected()),
        };
        self.expect(":")?;
        Ok((key, self.expression(WHOLE)?))
    }

    /// Members, methods, indexes and slices behind an operand.
    fn postfix(&mut self, mut base: Expr) -> Result<Expr, Refusal> {
        loop {
            let at = self.position();
            let optional = self.kind() == &Kind::Sign("?.");
            if matches!(self.kind(), Kind::Sign("." | "?." | "[")) {
                self.count()?;
            }
            if self.accept(".") || self.accept("?.") {
                base = if optional && self.accept("[") {
                    self.index(base, at, true)?
                } else {
                    self.member(base, at, optional)?
                };
            } else if self.accept("[") {
                base = self.index(base, at, false)?;
            } else {
                return Ok(base);
            }
        }
    }

    fn member(&mut self, base: Expr, at: usize, optional: bool) -> Result<Expr, Refusal> {
        // Behind a dot, the words of the grammar are names like any other.
        let Kind::Word(name) = self.kind().clone() else { return Err(self.unexpected()) };
        self.advance();
        let base = Box::new(base);
        if self.accept("(") {
            let args = self.list(")", |p| p.expression(WHOLE))?;
            return Ok(Expr { at, node: Node::Method { base, name, args } });
        }
        let index = Box::new(Expr { at, node: Node::Text(name) });
        Ok(Expr { at, node: Node::Member { base, index, optional } })
    }

    /// Behind `[`.
    fn index(&mut self, base: Expr, at: usize, optional: bool) -> Result<Expr, Refusal> {
        let base = Box::new(base);
        let bound = |p: &mut Parser, end: &'static str| -> Result<Option<Box<Expr>>, Refusal> {
            if p.kind() == &Kind::Sign(end) {
                return Ok(None);
            }
            p.nested(|p| p.expression(WHOLE)).map(|bound| Some(Box::new(bound)))
        };
        let from = bound(self, ":")?;
        let node = if self.accept(":") {
            Node::Slice { base, from, to: bound(self, "]")? }
        } else {
            let index = from.ok_or_else(|| self.unexpected())?;
            Node::Member { base, index, optional }
        };
        self.expect("]")?;
        Ok(Expr { at, node })
    }

    fn call(&mut self, at: usize, name: String, mut args: Vec<Expr>) -> Result<Expr, Refusal> {
        self.expect("(")?;
        self.count()?;
        let predicate_at = builtins::predicate_position(&name);
        let given = args.len();
        let mut position = given;
        let more = self.list(")", |p| {
            let is_predicate = predicate_at == Some(position);
            position += 1;
            if is_predicate { p.closure() } else { p.expression(WHOLE) }
        })?;
        args.extend(more);
        Ok(Expr { at, node: Node::Call { name, args } })
    }

    /// A predicate, with or without braces.
    fn closure(&mut self) -> Result<Expr, Refusal> {
        let at = self.position();
        self.closures += 1;
        let body = if self.kind() == &Kind::Sign("{") { self.block() } else { self.expression(WHOLE) };
        self.closures -= 1;
        Ok(Expr { at, node: Node::Closure(Box::new(body?)) })
    }

    /// Items separated by commas up to `end`; a comma before the end is allowed.
    fn list<T>(
        &mut self,
        end: &'static str,
        mut item: impl FnMut(&mut Parser) -> Result<T, Refusal>,
    ) -> Result<Vec<T>, Refusal> {
        self.nested(|p| {
            let mut items = Vec::new();
            while !p.accept(end) {
                items.push(item(p)?);
                if !p.accept(",") {
                    p.expect(end)?;
                    break;
                }
            }
            Ok(items)
        })
    }

    fn nested<T>(&mut self, inside: impl FnOnce(&mut Parser) -> Result<T, Refusal>) -> Result<T, Refusal> {
        if self.nesting >= MAX_NESTING {
            return Err(self.refuse(format!("expression is nested deeper than {MAX_NESTING}")));
        }
        self.nesting += 1;
        let done = inside(self);
        self.nesting -= 1;
        done
    }

    /// To be called for each operator before its operands are parsed, so that it bounds the recursion too.
    fn count(&mut self) -> Result<(), Refusal> {
        self.operators += 1;
        if self.operators > MAX_OPERATORS {
            return Err(self.refuse(format!("expression has more than {MAX_OPERATORS} operators")));
        }
        Ok(())
    }

    fn name(&mut self) -> Result<String, Refusal> {
        match self.kind().clone() {
            Kind::Word(word) if !is_reserved(&word) => {
                self.advance();
                Ok(word)
            }
            _ => Err(self.unexpected()),
        }
    }

    fn kind(&self) -> &Kind {
        self.peek(0)
    }

    /// The token `ahead` of the present one; the end stays the end.
    fn peek(&self, ahead: usize) -> &Kind {
        self.tokens.get(self.at + ahead).map_or(&Kind::End, |t| &t.kind)
    }

    fn position(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |t| t.at)
    }

    fn advance(&mut self) {
        self.at += 1;
    }

    /// Passes a finished leaf on and moves behind its token.
    fn take(&mut self, leaf: Result<Expr, Refusal>) -> Result<Expr, Refusal> {
        self.advance();
        leaf
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.kind(), Kind::Word(w) if w == word)
    }

    fn accept(&mut self, sign: &'static str) -> bool {
        let found = self.kind() == &Kind::Sign(sign);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, sign: &'static str) -> Result<(), Refusal> {
        if self.accept(sign) { Ok(()) } else { Err(self.unexpected()) }
    }

    fn unexpected(&self) -> Refusal {
        let what = match self.kind() {
            Kind::End => "EOF".to_owned(),
            Kind::Int(n) => format!("Number(\"{n}\")"),
            Kind::Float(n) => format!("Number(\"{n}\")"),
            Kind::Text(text) => format!("String({text:?})"),
            Kind::Word(word) if is_reserved(word) => format!("Operator(\"{word}\")"),
            Kind::Word(word) => format!("Identifier(\"{word}\")"),
            Kind::Sign(sign @ ("(" | ")" | "[" | "]" | "{" | "}")) => format!("Bracket(\"{sign}\")"),
            Kind::Sign(sign) => format!("Operator(\"{sign}\")"),
        };
        self.refuse(format!("unexpected token {what}"))
    }

    fn refuse(&self, text: impl Into<String>) -> Refusal {
        Refusal::new(self.position(), text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree with every operator in brackets.
    fn shape(text: &str) -> String {
        fn show(e: &Expr) -> String {
            match &e.node {
                Node::Int(n) => n.to_string(),
                Node::Bool(b) => b.to_string(),
                Node::Name(name) => name.clone(),
                Node::Text(text) => format!("{text:?}"),
                Node::Pointer(name) => format!("#{name}"),
                Node::Unary(op, e) => format!("({op:?} {})", show(e)),
                Node::Binary(op, a, b) => format!("({} {} {})", show(a), op.sign(), show(b)),
                Node::Conditional(c, a, b) => format!("({} ? {} : {})", show(c), show(a), show(b)),
                Node::Let(name, v, e) => format!("(let {name} = {}; {})", show(v), show(e)),
                Node::Member { base, index, .. } => format!("{}[{}]", show(base), show(index)),
                Node::Call { name, args } => {
                    format!("{name}({})", args.iter().map(show).collect::<Vec<_>>().join(", "))
                }
                Node::Closure(body) => format!("{{{}}}", show(body)),
                other => format!("{other:?}"),
            }
        }
        show(&parse(text).unwrap_or_else(|e| panic!("{text}: {e:?}")))
    }

    #[test]
    fn precedence_and_associativity() {
        for (text, expected) in [
            ("a or b and c", "(a or (b and c))"),
            ("a || b && c || d", "((a or (b and c)) or d)"),
            ("not a == b", "((Not a) == b)"),
            ("!a.b and c", "((Not a[\"b\"]) and c)"),
            ("1 + 2 * 3 - 4", "((1 + (2 * 3)) - 4)"),
            ("-2 ** 2", "(Minus (2 ** 2))"),
            ("2 ** 3 ^ 2", "(2 ** (3 ** 2))"),
            ("a in 1..5 + 1", "(a in (1 .. (5 + 1)))"),
            ("a not in b", "(Not (a in b))"),
            ("a not startsWith b and c", "((Not (a startsWith b)) and c)"),
            ("a > b ?? c", "(a > (b ?? c))"),
            ("a ?? b ?? c", "((a ?? b) ?? c)"),
            ("1 < x <= 5", "(let middle 4 = x; ((1 < middle 4) and (middle 4 <= 5)))"),
            ("a ? b : c ? d : e", "(a ? b : (c ? d : e))"),
            ("a ?: b", "(a ? true : b)"),
            ("if a { b } else if c { d } else { e }", "(a ? b : (c ? d : e))"),
            ("let x = 1; let y = x; y", "(let x = 1; (let y = x; y))"),
            ("(let x = a; x) and b", "((let x = a; x) and b)"),
            ("t | filter(# > 1) | len() > 0", "(len(filter(t, {(# > 1)})) > 0)"),
            ("any(t, {.x == 1})", "any(t, {(#[\"x\"] == 1)})"),
            ("count(t)", "count(t)"),
            ("reduce(t, #acc + #, 0)", "reduce(t, {(#acc + #)}, 0)"),
            ("a.in[0]?.not", "a[\"in\"][0][\"not\"]"),
            ("!!a", "(Not (Not a))"),
            ("not not a", "(Not (Not a))"),
        ] {
            assert_eq!(shape(text), expected, "{text}");
        }
    }

    #[test]
    fn what_the_grammar_refuses() {
        for text in [
            "",
            "a b",
            "port ==",
            "(port",
            "port = 80",
            "a ?? b > c",
            "a ?? b and c",
            "# == 1",
            "let x = 1",
            "let in = 1; 1",
            "if a { b }",
            "[1, 2",
            "{1.5: 2}",
            "a not b",
            "a not + b",
            "f(",
            "a.",
            "a[1",
            "a[:",
            "else",
            "1..",
            "a; b",
            "@",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(
            parse("a ?? 1.0 > 0.5").unwrap_err().text,
            "Operator (>) and coalesce expressions (??) cannot be mixed. Wrap either by parentheses."
        );
        assert_eq!(parse("port ==").unwrap_err().text, "unexpected token EOF");
        assert_eq!(parse("port = 80").unwrap_err().text, "unexpected token Operator(\"=\")");
    }

    #[test]
    fn size_is_limited() {
        let chain = |n: usize| vec!["a"; n + 1].join(" and ");
        assert!(parse(&chain(200)).is_ok());
        assert!(parse(&chain(201)).is_err());
        let nest = |n: usize| format!("{}a{}", "(".repeat(n), ")".repeat(n));
        assert!(parse(&nest(64)).is_ok());
        assert!(parse(&nest(65)).is_err());
        assert!(parse(&"!".repeat(4000)).is_err());
        assert!(parse(&"(".repeat(4096)).is_err());
        assert!(parse(&format!("\"{}\"", "x".repeat(4095))).is_err());
    }
}
