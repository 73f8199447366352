//! Hostnames, network names and tags: what they may look like (registry.md section 3.3, "Name rules").
//!
//! Called by the operations that set one. Whether a name is taken is the directory's business.

use pilot_wire::goquote::quote;

/// The most tags a node, or a member of a network, may carry.
pub(crate) const MAX_TAGS: usize = 10;

const NAME_MAX: usize = 63;
const TAG_MAX: usize = 32;
const RESERVED_HOSTNAMES: [&str; 3] = ["localhost", "backbone", "broadcast"];
const RESERVED_NETWORK: &str = "backbone";

/// Why a hostname, network name or tag is refused. The texts are those of the Go peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    #[error("{what} too long (max 63 chars)")]
    TooLong { what: &'static str },
    #[error("{what} must be lowercase alphanumeric with hyphens, start/end with alphanumeric")]
    Shape { what: &'static str },
    #[error("{what} {} is reserved", quote(name))]
    Reserved { what: &'static str, name: String },
    #[error("network name required")]
    NetworkRequired,
    #[error("too many tags (max {MAX_TAGS})")]
    TooManyTags,
    #[error("too many member tags (max {MAX_TAGS})")]
    TooManyMemberTags,
    #[error("empty tag not allowed")]
    EmptyTag,
    #[error("tag {} too long (max {TAG_MAX} chars)", quote(&clip(.0)))]
    TagTooLong(String),
    #[error("tag {} must be lowercase alphanumeric with hyphens", quote(&clip(.0)))]
    TagShape(String),
}

/// Checks a hostname that is not empty.
pub(crate) fn check_hostname(name: &str) -> Result<(), NameError> {
    check("hostname", name, &RESERVED_HOSTNAMES)
}

/// Checks a network's name.
pub(crate) fn check_network_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::NetworkRequired);
    }
    check("network name", name, &[RESERVED_NETWORK])
}

fn check(what: &'static str, name: &str, reserved: &[&str]) -> Result<(), NameError> {
    if name.len() > NAME_MAX {
        return Err(NameError::TooLong { what });
    }
    if !is_label(name) {
        return Err(NameError::Shape { what });
    }
    if reserved.contains(&name) {
        return Err(NameError::Reserved { what, name: name.to_owned() });
    }
    Ok(())
}

/// The tags a node gives itself: one leading `#` is cut off, duplicates vanish, then the limits apply.
pub(crate) fn node_tags<'a>(tags: impl Iterator<Item = &'a str>) -> Result<Vec<String>, NameError> {
    let mut kept: Vec<String> = Vec::new();
    for tag in tags {
        let tag = tag.strip_prefix('#').unwrap_or(tag);
        if kept.iter().any(|k| k == tag) {
            continue;
        }
        if kept.len() == MAX_TAGS {
            return Err(NameError::TooManyTags);
        }
        kept.push(tag.to_owned());
    }
    for tag in &kept {
        check_tag(tag, true)?;
    }
    Ok(kept)
}

/// The tags a network's admin gives a member: as sent, nothing cut off and nothing merged.
pub(crate) fn member_tags<'a>(tags: impl Iterator<Item = &'a str>) -> Result<Vec<String>, NameError> {
    let mut kept = Vec::new();
    for tag in tags {
        if kept.len() == MAX_TAGS {
            return Err(NameError::TooManyMemberTags);
        }
        kept.push(tag.to_owned());
    }
    for tag in &kept {
        check_tag(tag, false)?;
    }
    Ok(kept)
}

fn check_tag(tag: &str, own_length_text: bool) -> Result<(), NameError> {
    if tag.is_empty() {
        return Err(NameError::EmptyTag);
    }
    if own_length_text && tag.len() > TAG_MAX {
        return Err(NameError::TagTooLong(tag.to_owned()));
    }
    if tag.len() > TAG_MAX || !is_label(tag) {
        return Err(NameError::TagShape(tag.to_owned()));
    }
    Ok(())
}

/// `[a-z0-9]([a-z0-9-]*[a-z0-9])?`
fn is_label(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    alphanumeric(*first) && alphanumeric(*last) && bytes.iter().all(|b| alphanumeric(*b) || *b == b'-')
}

/// A text of a request as an error may repeat it: a stranger's megabytes are not echoed.
pub(crate) fn clip(text: &str) -> String {
    const SHOWN: usize = 128;
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostnames() {
        for good in ["a", "7", "a-b", "a--b", "x1", &"a".repeat(63)] {
            assert_eq!(check_hostname(good), Ok(()), "{good}");
        }
        let text = |name: &str| check_hostname(name).unwrap_err().to_string();
        for bad in ["-a", "a-", "A", "a_b", "a.b", "ä", " a"] {
            assert_eq!(
                text(bad),
                "hostname must be lowercase alphanumeric with hyphens, start/end with alphanumeric"
            );
        }
        assert_eq!(text(&"a".repeat(64)), "hostname too long (max 63 chars)");
        assert_eq!(text("broadcast"), r#"hostname "broadcast" is reserved"#);
    }

    #[test]
    fn network_names() {
        let text = |name: &str| check_network_name(name).unwrap_err().to_string();
        assert_eq!(check_network_name("localhost"), Ok(()));
        assert_eq!(text(""), "network name required");
        assert_eq!(text("backbone"), r#"network name "backbone" is reserved"#);
        assert_eq!(text(&"a".repeat(64)), "network name too long (max 63 chars)");
    }

    #[test]
    fn tags_of_a_node() {
        let own = |tags: &[&str]| node_tags(tags.iter().copied()).map_err(|e| e.to_string());
        assert_eq!(own(&["#gpu", "gpu", "web"]).unwrap(), ["gpu", "web"]);
        assert_eq!(own(&["#"]).unwrap_err(), "empty tag not allowed");
        assert_eq!(own(&["##a"]).unwrap_err(), r##"tag "#a" must be lowercase alphanumeric with hyphens"##);
        let long = "a".repeat(33);
        assert_eq!(own(&[&long]).unwrap_err(), format!("tag \"{long}\" too long (max 32 chars)"));
        let eleven: Vec<String> = (0..11).map(|i| format!("t{i}")).collect();
        let eleven: Vec<&str> = eleven.iter().map(String::as_str).collect();
        assert_eq!(own(&eleven).unwrap_err(), "too many tags (max 10)");
        assert_eq!(own(&["a"; 20]).unwrap(), ["a"], "duplicates are dropped before counting");
    }

    #[test]
    fn tags_of_a_member() {
        let own = |tags: &[&str]| member_tags(tags.iter().copied()).map_err(|e| e.to_string());
        assert_eq!(own(&["a", "a"]).unwrap(), ["a", "a"]);
        assert_eq!(own(&["#a"]).unwrap_err(), r##"tag "#a" must be lowercase alphanumeric with hyphens"##);
        assert_eq!(own(&["a"; 11]).unwrap_err(), "too many member tags (max 10)");
        let long = "a".repeat(33);
        assert_eq!(
            own(&[&long]).unwrap_err(),
            format!("tag \"{long}\" must be lowercase alphanumeric with hyphens")
        );
    }
}
