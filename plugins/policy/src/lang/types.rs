//! What an expression would give, before it runs: names, types of operands and arguments (policy.md sections 2.1 to 2.3).
//! Called by `Expression::compile`.
//!
//! The rules are those of the Go library's checker, which refuses a document at once where the engine here would only
//! fail later. A value whose type cannot be known (`fromJSON`, members of maps) is accepted everywhere.

use std::fmt;

use super::ast::{Binary, Expr, Node, Unary};
use super::builtins::{self, Gives, Param, Signature};
use super::{Refusal, Variable};

/// What is known about a value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Type {
    Any,
    Nil,
    Bool,
    Int,
    Float,
    Text,
    /// A variable that holds tags.
    Tags,
    List(Box<Type>),
    Map,
    Time,
    /// The difference of two times.
    Span,
    Zone,
}

impl fmt::Display for Type {
    /// As the Go library names it in errors.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Type::Any => "unknown",
            Type::Nil => "nil",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Float => "float64",
            Type::Text => "string",
            Type::Tags => "[]string",
            Type::List(_) => "[]interface {}",
            Type::Map => "map[string]interface {}",
            Type::Time => "time.Time",
            Type::Span => "time.Duration",
            Type::Zone => "*time.Location",
        })
    }
}

impl Type {
    fn is_any(&self) -> bool {
        *self == Type::Any
    }

    fn is_number(&self) -> bool {
        matches!(self, Type::Int | Type::Float)
    }

    fn is_list(&self) -> bool {
        matches!(self, Type::Tags | Type::List(_))
    }

    fn element(&self) -> Type {
        match self {
            Type::Tags => Type::Text,
            Type::List(element) => (**element).clone(),
            _ => Type::Any,
        }
    }

    /// Whether values of the two may be compared for equality.
    fn compares_with(&self, other: &Type) -> bool {
        let either = |t: &Type| self == t || other == t;
        either(&Type::Any)
            || either(&Type::Nil)
            || self == other
            || (self.is_number() && other.is_number())
            || (self.is_list() && other.is_list())
    }

    /// What is known when it may be either.
    fn merge(self, other: Type) -> Type {
        match (self, other) {
            (a, b) if a == b => a,
            (Type::Nil, a) | (a, Type::Nil) => a,
            (a, b) if a.is_list() && b.is_list() => Type::List(Box::new(a.element().merge(b.element()))),
            _ => Type::Any,
        }
    }
}

/// The type of the whole expression, with `variables` declared.
pub(super) fn check(tree: &Expr, variables: &[Variable]) -> Result<Type, Refusal> {
    Checker { variables, bound: Vec::new(), elements: Vec::new() }.expr(tree)
}

struct Checker<'a> {
    variables: &'a [Variable],
    /// Names bound by `let`, innermost last.
    bound: Vec<(String, Type)>,
    /// What `#` is in the closures around the present place, innermost last, and whether `#acc` means something there.
    elements: Vec<(Type, bool)>,
}

impl Checker<'_> {
    fn expr(&mut self, e: &Expr) -> Result<Type, Refusal> {
        match &e.node {
            Node::Nil => Ok(Type::Nil),
            Node::Bool(_) => Ok(Type::Bool),
            Node::Int(_) => Ok(Type::Int),
            Node::Float(_) => Ok(Type::Float),
            Node::Text(_) => Ok(Type::Text),
            Node::Name(name) => self.name(e, name),
            Node::Pointer(name) => self.pointer(e, name),
            Node::Array(items) => {
                let mut element = None;
                for item in items {
                    let found = self.expr(item)?;
                    element = Some(element.map_or(found.clone(), |so_far: Type| so_far.merge(found)));
                }
                Ok(Type::List(Box::new(element.unwrap_or(Type::Any))))
            }
            Node::Map(entries) => {
                for (key, value) in entries {
                    self.expr(key)?;
                    self.expr(value)?;
                }
                Ok(Type::Map)
            }
            Node::Unary(operator, operand) => self.unary(e, *operator, operand),
            Node::Binary(operator, left, right) => self.binary(e, *operator, left, right),
            Node::Conditional(condition, then, otherwise) => {
                let found = self.expr(condition)?;
                if !matches!(found, Type::Bool | Type::Any) {
                    let text = format!("non-bool expression (type {found}) used as condition");
                    return Err(Refusal::new(condition.at, text));
                }
                Ok(self.expr(then)?.merge(self.expr(otherwise)?))
            }
            Node::Let(name, value, rest) => {
                let known = self.variables.iter().any(|v| v.name == name)
                    || builtins::signature(name).is_some()
                    || self.bound.iter().any(|(bound, _)| bound == name);
                if known || matches!(name.as_str(), "true" | "false" | "nil" | "$env") {
                    return Err(Refusal::new(e.at, format!("cannot redeclare {name}")));
                }
                let value = self.expr(value)?;
                self.bound.push((name.clone(), value));
                let found = self.expr(rest);
                self.bound.pop();
                found
            }
            Node::Member { base, index, .. } => self.member(e, base, index),
            Node::Slice { base, from, to } => {
                let base = self.expr(base)?;
                for bound in [from, to].into_iter().flatten() {
                    let found = self.expr(bound)?;
                    if !matches!(found, Type::Int | Type::Any) {
                        return Err(Refusal::new(bound.at, format!("non-integer slice index {found}")));
                    }
                }
                match base {
                    Type::Tags => Ok(Type::List(Box::new(Type::Text))),
                    Type::Any | Type::Text | Type::List(_) => Ok(base),
                    _ => Err(Refusal::new(e.at, format!("cannot slice {base}"))),
                }
            }
            Node::Method { base, name, args } => {
                let base = self.expr(base)?;
                for arg in args {
                    self.expr(arg)?;
                }
                builtins::method(&base, name)
                    .ok_or_else(|| Refusal::new(e.at, format!("type {base} has no method {name}")))
            }
            Node::Call { name, args } => self.call(e, name, args),
            // Only a call has them, and it looks at their bodies itself.
            Node::Closure(_) => Err(Refusal::new(e.at, "unexpected predicate")),
        }
    }

    fn name(&self, e: &Expr, name: &str) -> Result<Type, Refusal> {
        if let Some((_, found)) = self.bound.iter().rev().find(|(bound, _)| bound == name) {
            return Ok(found.clone());
        }
        if let Some(variable) = self.variables.iter().find(|v| v.name == name) {
            return Ok(variable.kind.as_type());
        }
        match name {
            "$env" => Ok(Type::Map),
            _ => Err(Refusal::new(e.at, format!("unknown name {name}"))),
        }
    }

    fn pointer(&self, e: &Expr, name: &str) -> Result<Type, Refusal> {
        match (self.elements.last(), name) {
            (Some((element, _)), "") => Ok(element.clone()),
            (Some((_, true)), "acc") => Ok(Type::Any),
            _ => Err(Refusal::new(e.at, format!("unknown pointer #{name}"))),
        }
    }

    fn unary(&mut self, e: &Expr, operator: Unary, operand: &Expr) -> Result<Type, Refusal> {
        let found = self.expr(operand)?;
        match operator {
            Unary::Not if matches!(found, Type::Bool | Type::Any) => Ok(Type::Bool),
            Unary::Minus | Unary::Plus if found.is_number() || found.is_any() => Ok(found),
            _ => {
                let sign = match operator {
                    Unary::Not => "not",
                    Unary::Minus => "-",
                    Unary::Plus => "+",
                };
                Err(Refusal::new(e.at, format!("invalid operation: {sign} (mismatched type {found})")))
            }
        }
    }

    fn binary(&mut self, e: &Expr, operator: Binary, left: &Expr, right: &Expr) -> Result<Type, Refusal> {
        use Type::{Any, Bool, Float, Int, Map, Nil, Span, Text, Time};
        let (l, r) = (self.expr(left)?, self.expr(right)?);
        // Both of one of the kinds, or one of them and one unknown, or both unknown.
        let both = |fits: &dyn Fn(&Type) -> bool| (fits(&l) || l.is_any()) && (fits(&r) || r.is_any());
        let number = |t: &Type| t.is_number();
        let known = !l.is_any() && !r.is_any();
        let found = match operator {
            Binary::Or | Binary::And => both(&|t| *t == Bool).then_some(Bool),
            Binary::Equal | Binary::NotEqual => l.compares_with(&r).then_some(Bool),
            Binary::Less | Binary::LessOrEqual | Binary::Greater | Binary::GreaterOrEqual => {
                let ordered = both(&number) || [Text, Time, Span].iter().any(|kind| both(&|t| t == kind));
                ordered.then_some(Bool)
            }
            Binary::In => {
                let fits = match &r {
                    Any | Nil => true,
                    Map => matches!(l, Text | Any),
                    list if list.is_list() => l.compares_with(&list.element()),
                    _ => false,
                };
                fits.then_some(Bool)
            }
            Binary::Contains | Binary::StartsWith | Binary::EndsWith => both(&|t| *t == Text).then_some(Bool),
            Binary::Matches => {
                if let Node::Text(pattern) = &right.node {
                    super::engine::check_pattern(pattern).map_err(|text| Refusal::new(right.at, text))?;
                }
                both(&|t| *t == Text).then_some(Bool)
            }
            Binary::Range => both(&|t| *t == Int).then(|| Type::List(Box::new(Int))),
            Binary::Add => match (&l, &r) {
                (Int, Int) => Some(Int),
                (Text, Text) => Some(Text),
                (Time, Span) | (Span, Time) => Some(Time),
                (Span, Span) => Some(Span),
                _ if known => both(&number).then_some(Float),
                _ => (both(&number) || [Text, Time, Span].iter().any(|kind| both(&|t| t == kind)))
                    .then_some(Any),
            },
            Binary::Subtract => match (&l, &r) {
                (Int, Int) => Some(Int),
                (Time, Time) | (Span, Span) => Some(Span),
                (Time, Span) => Some(Time),
                _ if known => both(&number).then_some(Float),
                _ => (both(&number) || [Time, Span].iter().any(|kind| both(&|t| t == kind))).then_some(Any),
            },
            Binary::Multiply => match (&l, &r) {
                (Int, Int) => Some(Int),
                (Span, Int | Float) | (Int | Float, Span) => Some(Span),
                _ if known => both(&number).then_some(Float),
                _ => (both(&number) || both(&|t| *t == Span)).then_some(Any),
            },
            Binary::Divide | Binary::Power => both(&number).then_some(Float),
            Binary::Modulo => both(&|t| *t == Int).then_some(Int),
            Binary::Coalesce => Some(l.clone().merge(r.clone())),
        };
        found.ok_or_else(|| {
            let sign = operator.sign();
            Refusal::new(e.at, format!("invalid operation: {sign} (mismatched types {l} and {r})"))
        })
    }

    fn member(&mut self, e: &Expr, base: &Expr, index: &Expr) -> Result<Type, Refusal> {
        let found = self.expr(base)?;
        let index_type = self.expr(index)?;
        // `$env.name` and `$env["name"]` must name a variable, like the bare name.
        if let (Node::Name(name), Node::Text(member)) = (&base.node, &index.node)
            && name == "$env"
        {
            return self.name(e, member);
        }
        match &found {
            Type::Any | Type::Map => Ok(Type::Any),
            list if list.is_list() => match index_type {
                Type::Int | Type::Any => Ok(list.element()),
                other => {
                    let text = format!("array elements can only be selected using an integer (got {other})");
                    Err(Refusal::new(index.at, text))
                }
            },
            _ => match &index.node {
                Node::Text(name) => Err(Refusal::new(e.at, format!("type {found} has no field {name}"))),
                _ => Err(Refusal::new(e.at, format!("type {found}[{index_type}] is undefined"))),
            },
        }
    }

    fn call(&mut self, e: &Expr, name: &str, args: &[Expr]) -> Result<Type, Refusal> {
        let Some(signature) = builtins::signature(name) else {
            return Err(Refusal::new(e.at, format!("unknown name {name}")));
        };
        let Signature { params, required, repeats, gives } = signature;
        if args.len() < required {
            return Err(Refusal::new(e.at, format!("not enough arguments to call {name}")));
        }
        if args.len() > params.len() && !repeats {
            return Err(Refusal::new(e.at, format!("too many arguments to call {name}")));
        }
        let mut first = Type::Any;
        let mut mapped = Type::Any;
        for (i, arg) in args.iter().enumerate() {
            let param = params[i.min(params.len() - 1)];
            if let (Param::Test | Param::Mapper, Node::Closure(body)) = (param, &arg.node) {
                self.elements.push((first.element(), name == "reduce"));
                let found = self.expr(body);
                self.elements.pop();
                mapped = found?;
                if param == Param::Test && !matches!(mapped, Type::Bool | Type::Any) {
                    let text = format!("predicate should return boolean (got {mapped})");
                    return Err(Refusal::new(arg.at, text));
                }
                continue;
            }
            let found = self.expr(arg)?;
            if !accepts(param, &found, arg) {
                let wanted = wanted(param);
                let text = format!("cannot use {found} as argument (type {wanted}) to call {name}");
                return Err(Refusal::new(arg.at, text));
            }
            if i == 0 {
                first = found;
            }
        }
        Ok(match gives {
            Gives::Type(found) => found,
            Gives::First if first.is_list() => Type::List(Box::new(first.element())),
            Gives::First => first,
            Gives::Element => first.element(),
            Gives::ListOfMapped => Type::List(Box::new(mapped)),
        })
    }
}

fn accepts(param: Param, found: &Type, arg: &Expr) -> bool {
    if found.is_any() {
        return true;
    }
    match param {
        Param::Anything => true,
        Param::Text => *found == Type::Text,
        Param::Whole => *found == Type::Int,
        Param::Number => found.is_number(),
        Param::Float => *found == Type::Float || (*found == Type::Int && is_arithmetic(arg)),
        Param::List => found.is_list(),
        Param::Map => *found == Type::Map,
        Param::Sized => *found == Type::Text || *found == Type::Map || found.is_list(),
        Param::Convertible => *found == Type::Text || found.is_number(),
        Param::Tags => *found == Type::Tags,
        Param::Zone => *found == Type::Zone,
        Param::Test | Param::Mapper => false,
    }
}

/// Whole numbers written in the expression may stand for floats; those in variables may not.
fn is_arithmetic(e: &Expr) -> bool {
    match &e.node {
        Node::Int(_) => true,
        Node::Unary(Unary::Minus | Unary::Plus, operand) => is_arithmetic(operand),
        Node::Binary(Binary::Add | Binary::Subtract | Binary::Multiply | Binary::Modulo, ..) => true,
        _ => false,
    }
}

fn wanted(param: Param) -> &'static str {
    match param {
        Param::Anything => "any",
        Param::Text => "string",
        Param::Whole => "int",
        Param::Number => "number",
        Param::Float => "float64",
        Param::List => "array",
        Param::Map => "map",
        Param::Sized => "string, array or map",
        Param::Convertible => "number or string",
        Param::Tags => "[]string",
        Param::Zone => "*time.Location",
        Param::Test | Param::Mapper => "predicate",
    }
}
