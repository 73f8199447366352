//! The functions an expression may call: the three of the plugin and those of the language (policy.md sections 2.2 and
//! 2.3), with what the type check needs to know about each. Read by the parser and the type check.

use super::types::Type;

/// What one parameter accepts. A value of unknown type is accepted everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Param {
    Anything,
    Text,
    Whole,
    Number,
    /// A number, but of variables only floats: what the Go peer declares as `float64`.
    Float,
    List,
    Map,
    /// Text, list or map.
    Sized,
    /// Number or text.
    Convertible,
    /// A variable's tags: a list of text that is not made in the expression.
    Tags,
    Zone,
    /// A predicate that gives a bool.
    Test,
    /// A predicate that gives anything.
    Mapper,
}

/// What a call gives.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Gives {
    Type(Type),
    /// The type of the first argument.
    First,
    /// The type of an element of the first argument.
    Element,
    /// A list of what the predicate gives.
    ListOfMapped,
}

/// One function.
#[derive(Clone, Debug)]
pub(super) struct Signature {
    pub params: &'static [Param],
    /// How many of them must be given.
    pub required: usize,
    /// Whether the last one may be repeated.
    pub repeats: bool,
    pub gives: Gives,
}

/// Where a function takes its predicate; `None` for functions without one.
pub(super) fn predicate_position(name: &str) -> Option<usize> {
    signature(name)?.params.iter().position(|p| matches!(p, Param::Test | Param::Mapper))
}

/// Looks a function up.
pub(super) fn signature(name: &str) -> Option<Signature> {
    use Param::{
        Anything, Convertible, Float, List, Map, Mapper, Number, Sized, Tags, Test, Text, Whole, Zone,
    };
    let fixed = |params: &'static [Param], gives: Type| {
        Some(Signature { params, required: params.len(), repeats: false, gives: Gives::Type(gives) })
    };
    let optional = |params: &'static [Param], required: usize, gives: Type| {
        Some(Signature { params, required, repeats: false, gives: Gives::Type(gives) })
    };
    let repeating = |params: &'static [Param], gives: Gives| {
        Some(Signature { params, required: params.len(), repeats: true, gives })
    };
    let giving = |params: &'static [Param], required: usize, gives: Gives| {
        Some(Signature { params, required, repeats: false, gives })
    };
    let texts = || Type::List(Box::new(Type::Text));
    let any_list = || Type::List(Box::new(Type::Any));
    match name {
        // The plugin's own.
        "has_tag" => fixed(&[Tags, Text], Type::Bool),
        "duration" => fixed(&[Text], Type::Float),
        "since" => fixed(&[Float], Type::Float),
        // Predicates.
        "all" | "any" | "one" | "none" => fixed(&[List, Test], Type::Bool),
        "filter" => giving(&[List, Test], 2, Gives::First),
        "map" => giving(&[List, Mapper], 2, Gives::ListOfMapped),
        "count" => optional(&[List, Test], 1, Type::Int),
        "sum" => optional(&[List, Mapper], 1, Type::Any),
        "find" | "findLast" => giving(&[List, Test], 2, Gives::Element),
        "findIndex" | "findLastIndex" => fixed(&[List, Test], Type::Int),
        "groupBy" => fixed(&[List, Mapper], Type::Map),
        "sortBy" => giving(&[List, Mapper, Text], 2, Gives::First),
        "reduce" => optional(&[List, Mapper, Anything], 2, Type::Any),
        // Text.
        "trim" | "trimPrefix" | "trimSuffix" => optional(&[Text, Text], 1, Type::Text),
        "upper" | "lower" => fixed(&[Text], Type::Text),
        "split" | "splitAfter" => optional(&[Text, Text, Whole], 2, texts()),
        "replace" => optional(&[Text, Text, Text, Whole], 3, Type::Text),
        "repeat" => fixed(&[Text, Whole], Type::Text),
        "join" => optional(&[List, Text], 1, Type::Text),
        "indexOf" | "lastIndexOf" => fixed(&[Text, Text], Type::Int),
        "hasPrefix" | "hasSuffix" => fixed(&[Text, Text], Type::Bool),
        // Numbers.
        "abs" => giving(&[Number], 1, Gives::First),
        "ceil" | "floor" | "round" => fixed(&[Number], Type::Float),
        "int" => fixed(&[Convertible], Type::Int),
        "float" => fixed(&[Convertible], Type::Float),
        "max" | "min" => repeating(&[Anything], Gives::Type(Type::Any)),
        "mean" | "median" => repeating(&[Anything], Gives::Type(Type::Float)),
        "bitand" | "bitor" | "bitxor" | "bitnand" | "bitshl" | "bitshr" | "bitushr" => {
            fixed(&[Whole, Whole], Type::Int)
        }
        "bitnot" => fixed(&[Whole], Type::Int),
        // Lists and maps.
        "len" => fixed(&[Sized], Type::Int),
        "first" | "last" => giving(&[List], 1, Gives::Element),
        "get" => fixed(&[Anything, Anything], Type::Any),
        "take" => giving(&[List, Whole], 2, Gives::First),
        "keys" | "values" | "toPairs" => fixed(&[Map], any_list()),
        "fromPairs" => fixed(&[List], Type::Map),
        "reverse" | "uniq" => giving(&[List], 1, Gives::First),
        "sort" => giving(&[List, Text], 1, Gives::First),
        "concat" => repeating(&[List], Gives::Type(any_list())),
        "flatten" => fixed(&[List], any_list()),
        // Conversions and time.
        "type" | "string" => fixed(&[Anything], Type::Text),
        "toJSON" => fixed(&[Anything], Type::Text),
        "fromJSON" => fixed(&[Text], Type::Any),
        "toBase64" | "fromBase64" => fixed(&[Text], Type::Text),
        "now" => optional(&[Zone], 0, Type::Time),
        "date" => optional(&[Anything, Text, Text], 1, Type::Time),
        "timezone" => fixed(&[Text], Type::Zone),
        _ => None,
    }
}

/// What a method gives; methods exist on times, spans of time, months and weekdays only.
pub(super) fn method(of: &Type, name: &str) -> Option<Type> {
    match (of, name) {
        (Type::Any, _) => Some(Type::Any),
        (
            Type::Time,
            "Year" | "Day" | "Hour" | "Minute" | "Second" | "Nanosecond" | "YearDay" | "Unix" | "UnixMilli"
            | "UnixMicro" | "UnixNano" | "Compare",
        ) => Some(Type::Int),
        (Type::Time, "Before" | "After" | "Equal" | "IsZero" | "IsDST") => Some(Type::Bool),
        (Type::Time, "Add" | "AddDate" | "Truncate" | "Round" | "UTC" | "Local" | "In") => Some(Type::Time),
        (Type::Time, "Format" | "String") => Some(Type::Text),
        (Type::Time, "Sub") => Some(Type::Span),
        (Type::Time, "Month" | "Weekday" | "Location") => Some(Type::Any),
        (Type::Span, "Hours" | "Minutes" | "Seconds") => Some(Type::Float),
        (Type::Span, "Milliseconds" | "Microseconds" | "Nanoseconds") => Some(Type::Int),
        (Type::Span, "Abs" | "Round" | "Truncate") => Some(Type::Span),
        (Type::Span | Type::Zone, "String") => Some(Type::Text),
        _ => None,
    }
}
