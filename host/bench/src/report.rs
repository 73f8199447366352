//! The results: one metric each with its baseline, printed as an aligned table or as one JSON object. Numbers of one run on
//! one machine; only the ratios mean something elsewhere.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Map, Value, json};

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
}

/// One row.
#[derive(Clone, Debug)]
pub struct Metric {
    /// Its key in the JSON object.
    pub name: &'static str,
    /// What it says, for the table.
    pub about: String,
    /// Unit of `value` and `baseline`.
    pub unit: &'static str,
    /// Ours.
    pub value: f64,
    /// The same work done by the baseline in the same run, and what the baseline is.
    pub baseline: Option<(f64, &'static str)>,
    /// How to read the ratio.
    pub better: Better,
    /// Further numbers of the JSON object.
    pub more: Vec<(&'static str, Value)>,
}

impl Metric {
    /// Ours over the baseline's.
    pub fn ratio(&self) -> Option<f64> {
        self.baseline.map(|(baseline, _)| self.value / baseline)
    }

    fn json(&self) -> Value {
        let mut object = Map::new();
        object.insert("value".into(), number(self.value));
        if let Some((baseline, name)) = self.baseline {
            object.insert("baseline".into(), number(baseline));
            object.insert("ratio".into(), number(self.value / baseline));
            object.insert("baseline_is".into(), json!(name));
        }
        object.insert("unit".into(), json!(self.unit));
        object.insert("better".into(), json!(if self.better == Better::Higher { "higher" } else { "lower" }));
        object.extend(self.more.iter().map(|(k, v)| ((*k).into(), v.clone())));
        Value::Object(object)
    }
}

/// Four significant digits, so that nobody takes noise for news.
pub fn number(value: f64) -> Value {
    format!("{value:.3e}").parse::<f64>().map_or(Value::Null, |rounded| json!(rounded))
}

/// One JSON object, a member per metric.
pub fn json(metrics: &[Metric]) -> String {
    let object: Map<String, Value> = metrics.iter().map(|m| (m.name.into(), m.json())).collect();
    Value::Object(object).to_string()
}

/// A table for people, and below it what each row is.
pub fn table(metrics: &[Metric]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["metric", "value", "baseline", "ratio", "unit", "better"]);
    for column in 1..=3 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut legend = String::new();
    for m in metrics {
        table.add_row([
            m.name.to_owned(),
            digits(m.value),
            m.baseline.map_or("-".into(), |(b, _)| digits(b)),
            m.ratio().map_or("-".into(), |r| format!("{r:.2}")),
            m.unit.to_owned(),
            if m.better == Better::Higher { "higher".into() } else { "lower".into() },
        ]);
        let baseline = m.baseline.map(|(_, is)| format!("; baseline: {is}")).unwrap_or_default();
        legend += &format!("  {}: {}{baseline}\n", m.name, m.about);
    }
    format!(
        "{}\n\n{legend}\nMachines are noisy and differ: read the ratios (value / baseline of the same run), not the values.",
        table.trim_fmt()
    )
}

fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric() -> Metric {
        Metric {
            name: "stream",
            about: "one stream".into(),
            unit: "MB/s",
            value: 1234.56,
            baseline: Some((617.28, "quinn")),
            better: Better::Higher,
            more: vec![("rounds", json!(5))],
        }
    }

    #[test]
    fn json_holds_value_baseline_and_ratio() {
        let parsed: Value = serde_json::from_str(&json(&[metric()])).unwrap();
        assert_eq!(parsed["stream"]["value"], json!(1235.0));
        assert_eq!(parsed["stream"]["baseline"], json!(617.3));
        assert_eq!(parsed["stream"]["ratio"], json!(2.0));
        assert_eq!(parsed["stream"]["rounds"], json!(5));
    }

    #[test]
    fn table_says_how_to_read_it() {
        let text = table(&[metric(), Metric { baseline: None, ..metric() }]);
        assert!(text.contains("2.00"), "{text}");
        assert!(text.contains("read the ratios"), "{text}");
    }
}
