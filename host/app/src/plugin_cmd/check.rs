//! `plugin check`: the loader's conformance kit, run in a child process, so that a plugin that crashes, hangs or exits ends
//! the child and is told about here.
//!
//! The child is this program again under a hidden subcommand; it writes one JSON object per line: a step that begins,
//! a step that ended.

use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use pilot_loader::conformance::{self, Finding, Progress, STEPS, Settings, Step, Verdict};
use serde_json::{Value, json};

use super::{Answer, Failure};

/// Flags of `plugin check`.
#[derive(Debug, Args)]
#[command(after_help = "\
Runs the plugin in a child process against a daemon in memory, as a host would use it and a little worse: on a node \
that is not registered, with events that make no sense, with strangers on its ports, on a daemon whose every method \
fails, and opened, started and stopped again and again. Nothing reaches the network but what the plugin itself opens.\n\n\
Steps: file, header, exports, layout, create, init, work, logs, shutdown, leftovers, containment, reload.\n\
Verdicts: pass; note (allowed, worth a look); fail (a host would refuse it, or suffer); skipped (a step before failed).\n\n\
Exit codes: 0 it conforms; 1 it does not, or is no plugin; 2 wrong usage; 3 the check itself could not be run.\n\n\
Examples:\n  pilot-host plugin check target/release/libhello.so\n  \
pilot-host plugin check libmine.so --config '{\"limit\": 3}' --json")]
pub struct CheckArgs {
    /// The plugin file.
    pub file: PathBuf,
    /// What its init and its shutdown get each, in seconds.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub deadline: u64,
    /// How often it is opened, started and stopped again.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub reloads: u32,
    /// Its table of the configuration, as a JSON object.
    #[arg(long, default_value = "{}", value_name = "JSON", value_parser = object)]
    pub config: Value,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

fn object(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err("not a JSON object".into()),
        Err(e) => Err(format!("not JSON: {e}")),
    }
}

/// The hidden subcommand that the child runs.
#[derive(Debug, Args)]
pub struct CheckChildArgs {
    file: PathBuf,
    #[arg(long)]
    deadline: u64,
    #[arg(long)]
    reloads: u32,
    #[arg(long, value_parser = object)]
    config: Value,
    #[arg(long)]
    state_dir: PathBuf,
}

pub(super) fn run(args: &CheckArgs) -> Result<Answer, Failure> {
    let could_not = |what: &str, e: &std::io::Error| Failure {
        code: "not-run",
        message: format!("the check could not be run: {what}: {e}"),
        hint: "free resources of this machine and try again".into(),
    };
    let state = tempfile::tempdir().map_err(|e| could_not("no temporary directory", &e))?;
    let mut command = Command::new("/proc/self/exe");
    command.args(["plugin", "check-child"]).arg(&args.file);
    command.args(["--deadline", &args.deadline.to_string(), "--reloads", &args.reloads.to_string()]);
    command.args(["--config", &args.config.to_string(), "--state-dir"]).arg(state.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|e| could_not("no child process", &e))?;
    let limit = settings(args.deadline, args.reloads, args.config.clone(), state.path().into()).step_limit();
    let findings = watch(&mut child, limit);
    end(&mut child);
    let conforms = findings.iter().all(|f| matches!(f.verdict, Verdict::Pass | Verdict::Note));
    Ok(Answer {
        json: as_json(args, &findings, conforms),
        text: as_table(args, &findings, conforms),
        good: conforms,
    })
}

/// Collects findings until the child is done, crashed or stuck; what it did not get to is skipped.
fn watch(child: &mut Child, limit: Duration) -> Vec<Finding> {
    let (lines, heard) = mpsc::channel();
    let Some(output) = child.stdout.take() else { return Vec::new() };
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                break;
            }
        }
    });
    // What the plugin prints is its own affair, but a full pipe must not stop it; the last of it may explain a crash.
    let chatter = child.stderr.take().map(|pipe| {
        std::thread::spawn(move || {
            BufReader::new(pipe).lines().map_while(Result::ok).last().unwrap_or_default()
        })
    });
    let bar = progress();
    let mut findings = Vec::new();
    let mut current: Option<(Step, Instant)> = None;
    let stuck = loop {
        match heard.recv_timeout(limit) {
            Ok(line) => match decode(&line) {
                Some(Progress::Begin(step)) => {
                    bar.set_message(format!("{}: {}", step.id, step.about));
                    current = Some((step, Instant::now()));
                }
                Some(Progress::End(finding)) => {
                    bar.inc(1);
                    current = None;
                    findings.push(finding);
                }
                None => {}
            },
            Err(RecvTimeoutError::Disconnected) => break false,
            Err(RecvTimeoutError::Timeout) => break true,
        }
    };
    bar.finish_and_clear();
    let status = if stuck { None } else { child.wait().ok() };
    end(child);
    let _ = reader.join();
    let last_words = chatter.and_then(|c| c.join().ok()).unwrap_or_default();
    let mut broken_at = None;
    if let Some((step, began)) = current {
        let text = match status {
            None => format!("it hangs: nothing happened for {limit:?}"),
            Some(status) => format!("it ended its process: {}{}", how(status), said(&last_words)),
        };
        findings.push(Finding { step: step.id, verdict: Verdict::Fail, text, took: began.elapsed() });
        broken_at = Some(step.id);
    }
    for step in STEPS.iter().skip(findings.len()) {
        let text =
            broken_at.map_or_else(|| "the check ended early".to_owned(), |id| format!("needs \"{id}\""));
        findings.push(Finding { step: step.id, verdict: Verdict::Skipped, text, took: Duration::ZERO });
    }
    findings
}

fn how(status: ExitStatus) -> String {
    match status.signal() {
        Some(_) => status.to_string(),
        None => format!("{status}, as if it were alone in it"),
    }
}

fn said(last_words: &str) -> String {
    let text: String = last_words.chars().take(160).collect();
    if text.is_empty() { String::new() } else { format!("; its last words: {text}") }
}

/// Ends the child and what it started.
fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        // Gone already is as good.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.wait();
}

fn progress() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(STEPS.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:20} {pos}/{len} {wide_msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn as_table(args: &CheckArgs, findings: &[Finding], conforms: bool) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["step", "verdict", "time", "found"]);
    for f in findings {
        let took =
            if f.took.is_zero() { String::new() } else { format!("{:.0} ms", f.took.as_secs_f64() * 1e3) };
        let about = STEPS.iter().find(|s| s.id == f.step).map_or("", |s| s.about);
        let text = if f.text.is_empty() { about } else { &f.text };
        table.add_row([f.step, f.verdict.as_str(), &took, text]);
    }
    let count = |verdict| findings.iter().filter(|f| f.verdict == verdict).count();
    let end = if conforms { "conforms" } else { "does NOT conform" };
    format!(
        "{}\n\n{}: {end} ({} passed, {} to note, {} failed, {} skipped)",
        table.trim_fmt(),
        args.file.display(),
        count(Verdict::Pass),
        count(Verdict::Note),
        count(Verdict::Fail),
        count(Verdict::Skipped),
    )
}

fn as_json(args: &CheckArgs, findings: &[Finding], conforms: bool) -> Value {
    let steps: Vec<Value> = findings.iter().map(encode_finding).collect();
    json!({ "file": args.file, "conforms": conforms, "steps": steps })
}

fn settings(deadline: u64, reloads: u32, config: Value, state_dir: PathBuf) -> Settings {
    Settings { deadline: Duration::from_secs(deadline), reloads, config, ..Settings::new(state_dir) }
}

/// The child's side.
pub(super) fn child(args: &CheckChildArgs) -> std::io::Result<()> {
    // The plugin may print; its text must not run into ours.
    let mut answer = std::fs::File::from(rustix::io::dup(std::io::stdout())?);
    rustix::stdio::dup2_stdout(std::io::stderr())?;
    let settings = settings(args.deadline, args.reloads, args.config.clone(), args.state_dir.clone());
    let mut broken = Ok(());
    conformance::check(&args.file, &settings, &mut |progress| {
        let line = match progress {
            Progress::Begin(step) => json!({ "begin": step.id }),
            Progress::End(finding) => json!({ "end": encode_finding(&finding) }),
        };
        if broken.is_ok() {
            broken = answer.write_all(format!("{line}\n").as_bytes());
        }
    });
    broken
}

fn encode_finding(f: &Finding) -> Value {
    json!({ "step": f.step, "verdict": f.verdict.as_str(), "found": f.text, "ms": f.took.as_secs_f64() * 1e3 })
}

fn decode(line: &str) -> Option<Progress> {
    let value: Value = serde_json::from_str(line).ok()?;
    let step = |id: &Value| STEPS.iter().find(|s| Some(s.id) == id.as_str()).copied();
    if let Some(id) = value.get("begin") {
        return step(id).map(Progress::Begin);
    }
    let end = value.get("end")?;
    Some(Progress::End(Finding {
        step: step(&end["step"])?.id,
        verdict: Verdict::parse(end["verdict"].as_str()?)?,
        text: end["found"].as_str()?.to_owned(),
        took: Duration::try_from_secs_f64(end["ms"].as_f64()? / 1e3).ok()?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_child_writes_is_read_back() {
        let finding = Finding {
            step: "init",
            verdict: Verdict::Note,
            text: "two\nlines".into(),
            took: Duration::from_millis(3),
        };
        let line = json!({ "end": encode_finding(&finding) }).to_string();
        assert!(!line.contains('\n'));
        let Some(Progress::End(read)) = decode(&line) else { panic!("not read") };
        assert_eq!((read.step, read.verdict, read.text), (finding.step, finding.verdict, finding.text));
        assert!(matches!(decode("{\"begin\":\"work\"}"), Some(Progress::Begin(s)) if s.id == "work"));
        for noise in ["", "hello", "{}", "{\"begin\":\"nothing\"}", "{\"end\":{\"step\":\"init\"}}"] {
            assert!(decode(noise).is_none(), "{noise}");
        }
    }
}
