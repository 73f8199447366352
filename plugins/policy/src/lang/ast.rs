//! The tree of an expression, as far as our own checks need it. Made by the parser, read by the type check and the
//! writer for the engine.

/// A node and where it starts in the text, in bytes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Expr {
    pub at: usize,
    pub node: Node,
}

/// What a node is. Pipes, chained comparisons, `not in` and the like are resolved by the parser.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// A variable: of the event, or bound by `let`.
    Name(String),
    /// `#` and `#acc` (with the name `acc`).
    Pointer(String),
    Array(Vec<Expr>),
    Map(Vec<(Expr, Expr)>),
    Unary(Unary, Box<Expr>),
    Binary(Binary, Box<Expr>, Box<Expr>),
    Conditional(Box<Expr>, Box<Expr>, Box<Expr>),
    Let(String, Box<Expr>, Box<Expr>),
    /// `base[index]`, `base.name`; `optional` for `?.`: nil of nil.
    Member {
        base: Box<Expr>,
        index: Box<Expr>,
        optional: bool,
    },
    Slice {
        base: Box<Expr>,
        from: Option<Box<Expr>>,
        to: Option<Box<Expr>>,
    },
    Method {
        base: Box<Expr>,
        name: String,
        args: Vec<Expr>,
    },
    Call {
        name: String,
        args: Vec<Expr>,
    },
    /// The predicate of `any`, `filter` and the like.
    Closure(Box<Expr>),
}

/// Prefix operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unary {
    Not,
    Minus,
    Plus,
}

/// Infix operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    Contains,
    StartsWith,
    EndsWith,
    Matches,
    Range,
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Power,
    Coalesce,
}

impl Binary {
    /// As written; of two spellings the one that the engine gets.
    pub const fn sign(self) -> &'static str {
        match self {
            Binary::Or => "or",
            Binary::And => "and",
            Binary::Equal => "==",
            Binary::NotEqual => "!=",
            Binary::Less => "<",
            Binary::LessOrEqual => "<=",
            Binary::Greater => ">",
            Binary::GreaterOrEqual => ">=",
            Binary::In => "in",
            Binary::Contains => "contains",
            Binary::StartsWith => "startsWith",
            Binary::EndsWith => "endsWith",
            Binary::Matches => "matches",
            Binary::Range => "..",
            Binary::Add => "+",
            Binary::Subtract => "-",
            Binary::Multiply => "*",
            Binary::Divide => "/",
            Binary::Modulo => "%",
            Binary::Power => "**",
            Binary::Coalesce => "??",
        }
    }

    /// `<` and its kin, which may be chained: `1 < x < 5`.
    pub const fn is_order(self) -> bool {
        matches!(self, Binary::Less | Binary::LessOrEqual | Binary::Greater | Binary::GreaterOrEqual)
    }

    /// Operators that may carry a `not` in front: `a not in b`.
    pub const fn takes_not(self) -> bool {
        matches!(
            self,
            Binary::In | Binary::Contains | Binary::StartsWith | Binary::EndsWith | Binary::Matches
        )
    }
}
