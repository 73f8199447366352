//! The language as a policy author sees it.

use serde_json::json;

use super::*;

fn limits() -> Limits {
    Limits { time: std::time::Duration::from_secs(5), ..Limits::full(1_000_000.0) }
}

/// As on the thread that asks, with patience for a busy machine.
fn near_limits(now: f64) -> Limits {
    Limits { time: std::time::Duration::from_secs(60), ..Limits::near(now) }
}

fn run(text: &str, values: serde_json::Value) -> Result<bool, String> {
    let variables = declared(PolicyEvent::Datagram);
    let expression = Expression::compile(text, variables).map_err(|e| format!("compile: {e}"))?;
    let context = Context::new(variables, values.as_object().unwrap());
    let result = expression.evaluate(&context, limits());
    // Where it may be decided on the thread that asks, it is decided the same.
    if let Some(here) = expression.evaluate_here(&context, near_limits(limits().now)) {
        assert_eq!(here, result, "{text}");
    }
    result
}

/// With one value per variable but the rating.
fn eval(text: &str) -> Result<bool, String> {
    run(
        text,
        json!({"peer_id": 9, "port": 80, "network_id": 7, "peer_tags": ["a", "b"], "peer_age_s": 100.5, "members": 3,
            "local_tags": ["lt"], "size": 10, "direction": "in"}),
    )
}

#[test]
fn what_is_true() {
    for text in [
        "port == 80",
        "port in 1..1023 and port not in [22, 443]",
        "port in 80..80 and not (port in 81..90) and peer_age_s not in 1..1000",
        "\"a\" in peer_tags && \"z\" not in peer_tags",
        "7 / 2 == 3.5 and 1 / 0 > 1e300",
        "-7 % 3 == -1",
        "-2 ** 2 == -4",
        "2 ** 3 ** 2 == 512",
        "network_id == 7.0",
        "duration(\"1m30s\") == 90 and duration(\"-1.5h\") == -5400",
        "since(0.0) == 0 and since(-5) == 0 and since(999_990) == 10",
        "peer_tags[-1] == \"b\" and peer_tags[0:1] == [\"a\"] and peer_tags[1:] == [\"b\"]",
        "\"hello\"[1:3] == \"el\" and \"hello\"[-2:] == \"lo\"",
        "len(peer_tags) == 2 and len(\"abc\") == 3 and len({\"a\": 1}) == 1",
        "count(peer_tags, # startsWith \"a\") == 1 and count([true, false]) == 1",
        "any(peer_tags, # == \"a\") and none(peer_tags, # == \"z\") and all(peer_tags, len(#) == 1)",
        "one(peer_tags, # == \"a\") and find(peer_tags, # > \"a\") == \"b\" and findIndex(peer_tags, # == \"b\") == 1",
        "filter([1, 2, 3], # > 1) == [2, 3] and map([1, 2], # * 2) == [2, 4]",
        "sum([1, 2, 3]) == 6 and sum([1, 2], # * 10) == 30 and reduce([1, 2, 3], #acc + #, 0) == 6",
        "map([[1, 2], [3]], sum(#)) == [3, 3]",
        "sort([3, 1, 2]) == [1, 2, 3] and sortBy([1, 2, 3], -#)[0] == 3 and sort([1, 2], \"desc\") == [2, 1]",
        "peer_tags | map(upper(#)) | join(\"-\") == \"A-B\"",
        "len(groupBy([1, 2, 3], # % 2)) == 2",
        "peer_tags[0] matches \"^[a-c]$\" and not (\"x\" matches `\\d+`)",
        "\"hello\" contains \"ell\" and \"hello\" endsWith \"lo\" and \"hello\" not startsWith \"x\"",
        "port == 80 ? true : size > 100",
        "if port > 100 { false } else if port > 50 { true } else { false }",
        "let a = port; let b = a + 1; b == 81",
        "let notes = 1; let android = notes; android == 1 and (let inner = 2; inner == 2)",
        "map([1, 2], let x = #; x + 1) == [2, 3]",
        "(sender_rating ?? 0.5) == 0.5 and sender_rating == nil",
        "\"x\" in {\"x\": 1} and {\"x\": port + 1}.x == 81 and {\"x\": 1}[\"y\"] == nil",
        "{1: 2} == {\"1\": 2}",
        "fromJSON(\"null\")?.x == nil and fromJSON(\"null\")?.[0] == nil",
        "!!true and not not true",
        "1 < 2 < 3 and not (1 < 3 < 2) and 1 < port <= 80 < 81 and not (1 < port < 80 < 81)",
        "(port == 80 ?: false) and (false ?: true)",
        "'it\\'s \\u00e9\\\\n' == `it's é\\n` and \"a`b\" == 'a' + '`' + 'b'",
        "\"a\" + \"b\" == \"ab\" and 1 + 2 == 3 and 1.5 + 1 == 2.5",
        "max(port, 100) == 100 && min([3, 1, 2]) == 1 and mean([1, 3]) == 2.0 and abs(-3) == 3",
        "int(\"42\") == 42 and float(\"1.5\") == 1.5 and string(42) == \"42\" and type(port) == \"int\"",
        "split(\"a,b\", \",\") == [\"a\", \"b\"] and replace(\"aba\", \"a\", \"x\") == \"xbx\" and trim(\" a \") == \"a\"",
        "first(peer_tags) == \"a\" and last([]) == nil and get(peer_tags, 5) == nil and take([1, 2, 3], 2) == [1, 2]",
        "uniq([1, 1, 2]) == [1, 2] and concat([1], [2]) == [1, 2] and flatten([[1], [2, [3]]]) == [1, 2, 3]",
        "keys({\"a\": 1}) == [\"a\"] and values({\"a\": 1}) == [1] and reverse([1, 2]) == [2, 1]",
        "fromJSON(\"{\\\"a\\\": [1]}\").a[0] == 1.0 and toJSON([1]) contains \"1\" and fromBase64(toBase64(\"x\")) == \"x\"",
        "bitand(6, 3) == 2 and bitshl(1, 4) == 16",
        "now().Year() > 2000 and now() - date(\"2024-01-01\") > now() - now()",
        "$env.port == 80 and $env[\"port\"] == 80",
        "port == 0x50 // comment",
        "port == /* inner */ 0b1010000",
        "8_0 == port and 1e2 == 100",
        "has_tag(peer_tags, 'b') and not has_tag(local_tags, \"b\")",
        "repeat(\"ab\", 2) == \"abab\"",
    ] {
        assert_eq!(eval(text), Ok(true), "{text}");
    }
}

#[test]
fn what_is_refused_before_it_runs() {
    for (text, cause) in [
        ("speed > 3", "unknown name speed (1:1)"),
        ("has_tags(peer_tags, \"a\")", "unknown name has_tags (1:1)"),
        ("p_step(true)", "unknown name p_step (1:1)"),
        ("port", "expected bool, but got int"),
        ("nil", "expected bool, but got nil"),
        ("\"true\"", "expected bool, but got string"),
        ("port == \"80\"", "invalid operation: == (mismatched types int and string) (1:1)"),
        ("not port == 22", "invalid operation: not (mismatched type int) (1:1)"),
        ("has_tag(peer_tags, 1)", "cannot use int as argument (type string) to call has_tag (1:20)"),
        (
            "has_tag([\"a\"], \"a\")",
            "cannot use []interface {} as argument (type []string) to call has_tag (1:9)",
        ),
        ("has_tag(filter(peer_tags, true), \"a\")", "cannot use []interface {} as argument"),
        ("since(peer_id) > 1", "cannot use int as argument (type float64) to call since"),
        ("has_tag(peer_tags)", "not enough arguments to call has_tag"),
        ("upper(\"a\", \"b\") == \"A\"", "too many arguments to call upper"),
        ("peer_tags contains \"a\"", "invalid operation: contains (mismatched types []string and string)"),
        ("1 in peer_tags", "invalid operation: in (mismatched types int and []string)"),
        ("port and true", "invalid operation: and (mismatched types int and bool)"),
        ("port % 1.5 == 0", "invalid operation: % (mismatched types int and float64)"),
        ("peer_tags[\"a\"] == 1", "array elements can only be selected using an integer (got string)"),
        ("peer_tags.size > 1", "array elements can only be selected using an integer (got string)"),
        ("port.x == 1", "type int has no field x"),
        ("port[0] == 1", "type int[int] is undefined"),
        ("port ? true : false", "non-bool expression (type int) used as condition"),
        ("filter(peer_tags, len(#)) == []", "predicate should return boolean (got int)"),
        ("any(port, true)", "cannot use int as argument (type array) to call any"),
        ("map(peer_tags, #index) == []", "unknown pointer #index"),
        ("map(peer_tags, #acc) == []", "unknown pointer #acc"),
        ("let port = 1; true", "cannot redeclare port"),
        ("let len = 1; true", "cannot redeclare len"),
        ("let a = 1; let a = 2; true", "cannot redeclare a"),
        ("\"a\" matches \"(\"", "regex parse error"),
        ("sender_rating ?? 1.0 > 0.5", "Operator (>) and coalesce expressions (??) cannot be mixed"),
        ("duration(5) > 1", "cannot use int as argument (type string) to call duration"),
        ("now().Size() > 1", "type time.Time has no method Size"),
        ("$env.speed == 1", "unknown name speed"),
    ] {
        let error = eval(text).unwrap_err();
        assert!(error.starts_with(&format!("compile: {cause}")) || error.contains(cause), "{text}: {error}");
        assert!(error.starts_with("compile: "), "{text}: {error}");
    }
}

#[test]
fn what_fails_when_it_runs() {
    for (text, cause) in [
        ("sender_rating < 0.25", "Invalid operands"),
        ("peer_tags[5] == \"a\"", "index out of range: 5 (array length is 2)"),
        ("peer_age_s > duration(\"soon\")", "time: invalid duration \"soon\""),
        ("port % 0 == 1", "divide by zero"),
        ("fromJSON(\"1\")", "expected bool, but got 1"),
        ("fromJSON(\"[\") == 1", ""),
        ("int(\"x\") == 1", ""),
    ] {
        let error = eval(text).unwrap_err();
        assert!(!error.starts_with("compile: ") && error.contains(cause), "{text}: {error}");
    }
}

#[test]
fn absent_variables_are_nil() {
    let none = json!({});
    for (text, expected) in [
        ("sender_rating == nil", Ok(true)),
        ("peer_age_s == 1.5", Ok(false)),
        ("\"a\" in peer_tags", Ok(false)),
        ("\"a\" not in peer_tags", Ok(true)),
        ("peer_id != nil and port == 1", Ok(false)),
        ("(peer_age_s ?? 1) == 1", Ok(true)),
    ] {
        assert_eq!(run(text, none.clone()), expected, "{text}");
    }
    for text in [
        "peer_id == 0",
        "peer_id != 0",
        "0 == peer_id",
        "peer_id > 0",
        "has_tag(peer_tags, \"a\")",
        "len(peer_tags) == 0",
        "peer_id + 1 == 1",
    ] {
        assert!(run(text, none.clone()).is_err(), "{text}");
    }
}

#[test]
fn short_circuits() {
    assert_eq!(eval("port == 80 || peer_tags[9] == \"x\""), Ok(true));
    assert_eq!(eval("port == 81 && peer_tags[9] == \"x\""), Ok(false));
    assert_eq!(eval("(\"a\" ?? peer_tags[9]) == \"a\""), Ok(true));
}

#[test]
fn nothing_grows_or_runs_without_limit() {
    for text in [
        "len(1..20000000) > 0",
        "len(map(1..100000, map(1..100000, #))) > 0",
        "all(1..1000, all(1..1000, all(1..1000, # > 0)))",
        "len(repeat(\"x\", 1000000000)) > 0",
        "len(repeat(repeat(\"x\", 100000), 100000)) > 0",
        "len(replace(repeat(\"x\", 1000000), \"x\", repeat(\"y\", 1000000))) > 0",
        "len(join(map(1..100000, \"x\"), repeat(\"y\", 1000000))) > 0",
        "len(reduce(1..60, #acc + #acc, \"xxxxxxxxxxxxxxxx\")) > 0",
        "len(reduce(1..60, concat(#acc, #acc), [1])) > 0",
        "len(reduce(1..60, [#acc, #acc], [1])) > 0",
        "len(uniq(1..100000)) > 0",
        "len(groupBy(1..100000, #)) > 0",
        "let r = 1..100000; len(map(r, r)) > 0",
        &format!("let r = 1..400000; len([{}]) > 0", vec!["r"; 150].join(", ")),
        &format!("let r = 1..400000; len(concat({})) > 0", vec!["r"; 150].join(", ")),
        &format!(
            "let a0 = 1..400000; {}true",
            (1..150).map(|i| format!("let a{i} = a{}; ", i - 1)).collect::<String>()
        ),
        &format!("let r = 1..400000; max({}) > 0", vec!["r"; 150].join(", ")),
        "len(9223372036854775806..9223372036854775807) == 2 and len((-9223372036854775807)..9223372036854775807) > 0",
    ] {
        let start = std::time::Instant::now();
        let error = eval(text).unwrap_err();
        assert!(!error.starts_with("compile: "), "{text}: {error}");
        assert!(start.elapsed() < std::time::Duration::from_secs(5), "{text}: {error}");
    }
}

#[test]
fn the_largest_expressions_compile_soon_and_run() {
    let nest = |n: usize, open: &str, inside: &str, close: &str| {
        format!("{}{inside}{}", open.repeat(n), close.repeat(n))
    };
    let texts = [
        nest(64, "(", "true", ")"),
        nest(64, "(not ", "true", ")"),
        nest(64, "(false ?: ", "true", ")"),
        nest(64, "", "true", " ?: true"),
        nest(30, "((", "port == 80", ") ?: false)"),
        nest(60, "(true ? ", "true", " : false)"),
        nest(60, "if true { ", "true", " } else { false }"),
        nest(30, "any(peer_tags, {", "true", "})"),
        nest(30, "any(peer_tags, 1 < len(#) + 1 < 3 and ", "true", ")"),
        format!("len({}) == 1", nest(60, "[", "1", "]")),
        format!("len({}) == 1", nest(60, "{\"a\": ", "1", "}")),
        format!("{} == \"a\"", nest(30, "peer_tags[0 * len(", "\"a\"", ")]")),
        format!("{} == 3", nest(60, "max(1, ", "3", ")")),
        format!("{} == 1", nest(30, "len([0 < ", "1", " < 3])")),
        (0..199).map(|i| format!("let x{i} = {i}; ")).collect::<String>() + "true",
        format!("{}true", "!".repeat(198)),
        vec!["port == 80"; 100].join(" and "),
        format!("{} == 200", vec!["1"; 200].join(" + ")),
        format!("{} > 0", vec!["1"; 200].join(" ** ")),
        format!("({}) == 1", vec!["1"; 200].join(" ?? ")),
        format!("0 < {}", (1..=150).map(|i| i.to_string()).collect::<Vec<_>>().join(" < ")),
        format!("{}true", "false ? false : ".repeat(190)),
    ];
    let start = std::time::Instant::now();
    for text in texts {
        let deep = std::thread::Builder::new().stack_size(64 << 20);
        let shown = text.clone();
        let result = deep.spawn(move || eval(&text)).unwrap().join().unwrap();
        assert_eq!(result, Ok(true), "{shown}");
    }
    assert!(start.elapsed() < std::time::Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn a_run_ends_at_its_deadline() {
    let variables = declared(PolicyEvent::Connect);
    let expression = Expression::compile("all(1..900, all(1..900, true))", variables).unwrap();
    let context = Context::new(variables, &serde_json::Map::new());
    let short = Limits { time: std::time::Duration::ZERO, ..Limits::full(0.0) };
    assert_eq!(expression.evaluate(&context, short), Err("expression evaluation timed out".into()));
}

/// What the thread that asks decides by itself, with `tags` tags of the peer.
fn here(text: &str, tags: usize) -> Option<Result<bool, String>> {
    let variables = declared(PolicyEvent::Connect);
    let expression = Expression::compile(text, variables).unwrap();
    let tags = Given::Tags((0..tags).map(|i| format!("tag-{i}")).collect());
    let context = Context::of(variables, [("port", Given::Int(80)), ("peer_tags", tags)]);
    expression.evaluate_here(&context, near_limits(0.0))
}

#[test]
fn usual_loops_are_decided_where_they_are_asked_and_long_ones_are_not() {
    assert_eq!(here("any(peer_tags, # == \"tag-99\")", 100), Some(Ok(true)));
    assert_eq!(here("port in 1..1024 and all(1..20, # * port > 0)", 0), Some(Ok(true)));
    assert_eq!(here("peer_tags[5] == \"\"", 2).map(|r| r.is_err()), Some(true), "an error is an answer");
    for (text, tags) in [
        ("len(1..20000000) > 0", 0),
        ("all(1..900, all(1..900, # > 0))", 0),
        ("len(repeat(\"a\", 100000)) > 5", 0),
        ("has_tag(peer_tags, \"tag-0\")", 1000),
        ("\"a\" matches \"a\"", 0),
    ] {
        assert_eq!(here(text, tags), None, "{text}");
    }
    // Whatever ran out here is decided elsewhere.
    assert_eq!(eval("len(1..20000) == 20000"), Ok(true));
}

#[test]
fn a_small_stack_is_enough_for_what_is_decided_where_it_is_asked() {
    // As deep as it may be; `~` stands for what is inside.
    let nest = |frame: &str, layer: &str, inside: &str| -> String {
        let (open, close) = layer.split_once('~').unwrap();
        let text = |n: usize| frame.replace('~', &format!("{}{inside}{}", open.repeat(n), close.repeat(n)));
        let near = |n: &usize| parse::parse(&text(*n)).is_ok_and(|tree| near::is_near(&tree));
        text((1..60).take_while(near).last().unwrap())
    };
    for text in [
        nest("~", "(not ~)", "true"),
        nest("~", "(false ?: ~)", "true"),
        nest("~", "if true { ~ } else { false }", "true"),
        nest("~", "any(peer_tags, {~})", "true"),
        nest("~", "any(peer_tags, 1 < len(#) + 1 < 30 and ~)", "true"),
        nest("~", "any(map(peer_tags, [#]), any(#, ~))", "true"),
        nest("len(~) == 1", "[port, ~][1:]", "[1]"),
        nest("len(~) == 1", "{\"a\": ~}", "{\"a\": 1}"),
        nest("~ == \"tag-0\"", "peer_tags[0 * len(~)]", "\"tag-0\""),
        nest("~ == 3", "max(1, ~)", "3"),
        (0..22).map(|i| format!("let x{i} = {i}; ")).collect::<String>() + "true",
        vec!["port == 80"; 22].join(" and "),
    ] {
        // A quarter of the least that threads have, and this build takes more than a released one.
        let small = std::thread::Builder::new().stack_size(512 << 10);
        let shown = text.clone();
        let decided = small.spawn(move || here(&text, 2)).unwrap().join().unwrap();
        assert!(decided.is_some(), "{shown}");
    }
}

#[test]
fn each_event_has_its_own_variables() {
    let names = |event| declared(event).iter().map(|v| v.name).collect::<Vec<_>>();
    assert!(names(PolicyEvent::Datagram).contains(&"direction"));
    assert!(
        !names(PolicyEvent::Connect).contains(&"size") && !names(PolicyEvent::Dial).contains(&"direction")
    );
    assert_eq!(names(PolicyEvent::Join), ["peer_id", "network_id", "local_tags", "members"]);
    assert_eq!(names(PolicyEvent::Leave), ["peer_id", "network_id", "local_tags"]);
}

#[test]
fn no_text_makes_it_panic_or_run_away() {
    // Pieces that may be put together in any order; most results are refused, none may do more than that.
    let pieces = [
        "port",
        "peer_tags",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        " and ",
        " not ",
        "!",
        "-",
        "#",
        ".",
        "..",
        "1",
        "\"a\"",
        "`",
        "any(",
        ",",
        "let x = ",
        ";",
        "?",
        ":",
        " in ",
        "??",
        "|",
        "len(",
        "if ",
        " else ",
        "==",
        "=",
        "é",
        "\\",
    ];
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for _ in 0..3000 {
        let mut text = String::new();
        for _ in 0..(state % 14) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.push_str(pieces[(state >> 33) as usize % pieces.len()]);
        }
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if let Err(error) = eval(&text) {
            assert!(!error.contains("panic"), "{text}: {error}");
        }
    }
}
