//! The page at `/`: made whole here, renewed by the browser every ten seconds, light or dark as the browser wishes.

use std::fmt::Write as _;

use super::View;

const HEAD: &str = include_str!("head.html");
/// Rows in the list of operations.
const TOP: usize = 12;
/// Rows in the list of networks.
const NETWORKS: usize = 100;
/// The curve's picture, in its own units.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 96.0;
/// The shortest time it spans, in samples: five minutes. Until then it starts in the middle.
const SPAN: usize = 11;

/// The whole document.
pub(super) fn page(view: &View) -> String {
    let mut out = String::from(HEAD);
    // Writing to a String does not fail.
    let _ = write(&mut out, view);
    out.push_str("</main></body></html>\n");
    out
}

fn write(out: &mut String, view: &View) -> std::fmt::Result {
    let stats = &view.stats;
    let (class, role) = if stats.standby { ("standby", "standby") } else { ("up", "primary") };
    write!(
        out,
        "<header><h1>Pilot rendezvous</h1><p><span class=\"dot {class}\"></span>{role} &middot; up {}</p></header>\
         <section class=\"tiles\">",
        duration(view.uptime)
    )?;
    let compat = view.compat.map(|c| {
        let note = format!("{} messages in, {} out", grouped(c.received), grouped(c.sent));
        ("WebSocket clients", grouped(c.clients as u64), note)
    });
    let peers = 2.0 * stats.trust_pairs as f64 / stats.known_nodes.max(1) as f64;
    let tiles = [
        (
            "Nodes online",
            grouped(stats.live_nodes as u64),
            format!("{} known", grouped(stats.known_nodes as u64)),
        ),
        ("Trust pairs", grouped(stats.trust_pairs as u64), format!("{peers:.1} peers a node")),
        ("Networks", grouped(stats.networks as u64), "besides the backbone".to_owned()),
        (
            "Requests",
            grouped(view.requests()),
            format!("{} refused, {}/day", grouped(stats.refused), rounded(view.requests_per_day())),
        ),
    ];
    for (label, value, note) in tiles.into_iter().chain(compat) {
        write!(out, "<div class=\"tile\"><h2>{label}</h2><p>{value}</p><small>{note}</small></div>")?;
    }
    out.push_str("</section>");
    curve(out, &view.rates)?;
    out.push_str("<div class=\"columns\">");
    let mut requests = stats.requests.clone();
    requests.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let rest: u64 = requests.iter().skip(TOP).map(|(_, count)| count).sum();
    requests.truncate(TOP);
    let mut rows: Vec<(String, u64)> =
        requests.into_iter().map(|(op, count)| (op.to_owned(), count)).collect();
    if rest > 0 {
        rows.push(("all others".to_owned(), rest));
    }
    bars(out, "Operations", &rows)?;
    bars(out, "Versions", &stats.versions)?;
    if let Some(networks) = &view.networks {
        let mut rows: Vec<(String, u64)> =
            networks.iter().map(|(id, name, members)| (format!("{id} {name}"), *members as u64)).collect();
        // Stable: equal ones stay in the order of their numbers.
        rows.sort_by_key(|(_, members)| std::cmp::Reverse(*members));
        rows.truncate(NETWORKS);
        bars(out, "Members per network", &rows)?;
    }
    out.push_str(
        "</div><footer><a href=\"/api/stats\">/api/stats</a> <a href=\"/healthz\">/healthz</a> \
                  <a href=\"/metrics\">/metrics</a><span>renewed every 10 s</span></footer>",
    );
    Ok(())
}

/// Requests per second over the last hour, or since the start.
fn curve(out: &mut String, rates: &[f64]) -> std::fmt::Result {
    let top = rates.iter().copied().fold(0.0, f64::max);
    let now = rates.last().copied().unwrap_or(0.0);
    write!(
        out,
        "<section class=\"card\"><h2>Requests per second</h2><p class=\"right\">now {now:.1}, peak {top:.1}</p>"
    )?;
    if rates.len() < 2 {
        out.push_str("<p class=\"empty\">The curve begins half a minute after the start.</p></section>");
        return Ok(());
    }
    let steps = rates.len().max(SPAN) - 1;
    let step = WIDTH / steps as f64;
    let left = WIDTH - step * (rates.len() - 1) as f64;
    let scale = if top > 0.0 { (HEIGHT - 4.0) / top } else { 0.0 };
    let mut line = String::new();
    for (i, rate) in rates.iter().enumerate() {
        write!(line, "{:.1},{:.1} ", left + step * i as f64, HEIGHT - 2.0 - rate * scale)?;
    }
    write!(
        out,
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"requests per \
         second\"><path class=\"grid\" d=\"M0 2H{WIDTH}M0 {middle}H{WIDTH}M0 {bottom}H{WIDTH}\"/><polygon class=\"area\" \
         points=\"{left:.1},{HEIGHT} {line}{WIDTH},{HEIGHT}\"/><polyline class=\"line\" points=\"{line}\"/></svg>\
         <p class=\"axis\"><span>{} ago</span><span>now</span></p></section>",
        duration(steps as u64 * super::SAMPLE.as_secs()),
        middle = HEIGHT / 2.0,
        bottom = HEIGHT - 2.0,
    )
}

/// A list with a bar behind each number.
fn bars(out: &mut String, title: &str, rows: &[(String, u64)]) -> std::fmt::Result {
    write!(out, "<section class=\"card\"><h2>{title}</h2>")?;
    if rows.is_empty() {
        out.push_str("<p class=\"empty\">Nothing yet.</p></section>");
        return Ok(());
    }
    out.push_str("<table>");
    let top = rows.iter().map(|(_, count)| *count).max().unwrap_or(1).max(1);
    for (label, count) in rows {
        let label = escaped(label);
        let percent = 100.0 * *count as f64 / top as f64;
        write!(
            out,
            "<tr><td title=\"{label}\">{label}</td><td class=\"bar\"><i style=\"width:{percent:.1}%\"></i></td>\
             <td class=\"number\">{}</td></tr>",
            grouped(*count)
        )?;
    }
    out.push_str("</table></section>");
    Ok(())
}

/// Names come from strangers.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Digits in groups of three, with thin spaces.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{2009}');
        }
        out.push(digit);
    }
    out
}

/// A number that is a guess anyway: two digits and a unit from ten thousand on.
fn rounded(number: u64) -> String {
    let (divisor, unit) = match number {
        0..10_000 => return grouped(number),
        10_000..1_000_000 => (1e3, "k"),
        1_000_000..1_000_000_000 => (1e6, "M"),
        _ => (1e9, "G"),
    };
    let value = number as f64 / divisor;
    if value < 10.0 {
        format!("{value:.1}\u{2009}{unit}")
    } else {
        format!("{}\u{2009}{unit}", grouped(value as u64))
    }
}

fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, m) => format!("{m} min"),
        (0, h, m) => format!("{h} h {m} min"),
        (d, h, _) => format!("{d} d {h} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_become_markup() {
        assert_eq!(escaped("<b onclick='x'>&\"\u{7}"), "&lt;b onclick=&#39;x&#39;&gt;&amp;&quot;\u{fffd}");
    }

    #[test]
    fn numbers_and_times_are_readable() {
        assert_eq!(grouped(1_234_567), "1\u{2009}234\u{2009}567");
        assert_eq!((grouped(0), grouped(999)), ("0".into(), "999".into()));
        let short = [9_999, 45_678, 2_055_272, 12_000_000_000].map(rounded);
        assert_eq!(short, ["9\u{2009}999", "45\u{2009}k", "2.1\u{2009}M", "12\u{2009}G"]);
        assert_eq!([5, 65, 3_700, 90_000].map(duration), ["5 s", "1 min", "1 h 1 min", "1 d 1 h"]);
    }
}
