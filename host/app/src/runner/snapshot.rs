//! A cluster as files, and back (netrunner.md section 5, "Snapshots").
//!
//! ```text
//! <snapshots>/pilot-snapshot-<name>/network.json     what the cluster was told to be
//!                                   manifest.json    every file's size and SHA-256
//!                                   services/...     the registry's state
//!                                   nodes/<node>/... each node's state directory
//! ```
//!
//! A snapshot is made under another name and renamed when it is complete and on the disk. It holds private keys: directories
//! are 0700, files 0600.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pilot_net::control::{BackendError, BackendResult, ClusterInfo, LoadSnapshot};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::cluster::{Chain, Cluster, Plan, make_root};
use super::node::{make_dir, write};
use super::process::Process;
use super::spec::{Maps, NodeSpec, check_name, fault, global_config, is_name, object, text_at};
use super::{NOT_BOOTSTRAPPED, Phase, Runner};

const PREFIX: &str = "pilot-snapshot-";
const VERSION: u32 = 1;
/// How long a running cluster may be held still.
const STILL: Duration = Duration::from_secs(10);
/// How long its processes may take to stand still.
const FREEZE: Duration = Duration::from_secs(2);
/// Largest description that is read, and most files of a snapshot.
const MAX_JSON: u64 = 64 << 20;
const MAX_FILES: usize = 1_000_000;

/// `network.json`.
#[derive(Serialize, Deserialize)]
struct Description {
    version: u32,
    /// Made while the cluster ran; such a one may be replaced.
    hot: bool,
    plan: Plan,
    nodes: Vec<NodeSpec>,
    chains: Vec<Chain>,
}

/// `manifest.json`: path within the snapshot to what the file must be.
#[derive(Default, Serialize, Deserialize)]
struct Manifest {
    files: BTreeMap<String, Entry>,
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    size: u64,
    sha256: String,
}

fn io(what: &str) -> impl Fn(std::io::Error) -> BackendError {
    move |e| BackendError::new(format!("snapshot: {what}: {e}"))
}

/// Where a snapshot is; its name is checked.
fn place(snapshots: &Path, name: &str) -> BackendResult<PathBuf> {
    if !is_name(name) {
        return fault(format!("invalid snapshotName {name:?}"));
    }
    Ok(snapshots.join(format!("{PREFIX}{name}")))
}

/// Names of all snapshots, sorted.
pub(super) fn names(snapshots: &Path) -> BackendResult<Vec<String>> {
    let entries = match fs::read_dir(snapshots) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io("read the directory")(e)),
    };
    let mut names: Vec<String> = entries
        .filter_map(|e| e.ok()?.file_name().to_str()?.strip_prefix(PREFIX).map(str::to_owned))
        .filter(|name| is_name(name))
        .collect();
    names.sort();
    Ok(names)
}

/// SaveSnapshot: ends the cluster and keeps it.
pub(super) async fn save(runner: &Runner, name: &str) -> BackendResult<String> {
    let _one_at_a_time = runner.0.snapshots.lock().await;
    let cluster = runner.ready()?;
    let path = place(&runner.0.settings.snapshots, name)?;
    if path.exists() {
        return fault(format!("snapshot {name:?} already exists"));
    }
    {
        let mut phase = runner.phase();
        match &*phase {
            Phase::Up(up) if Arc::ptr_eq(up, &cluster) => *phase = Phase::Ending,
            _ => return fault(NOT_BOOTSTRAPPED),
        }
    }
    let description = describe(&cluster, false);
    cluster.end().await;
    let sources = sources(&cluster);
    let target = path.clone();
    let copied = blocking(move || {
        let partial = Partial::new(&target)?;
        copy_all(&sources, &partial.0, None)?;
        partial.finish(&description, &target)
    });
    let outcome = copied.await;
    runner.set_phase(Phase::Empty);
    outcome.map(|()| path.display().to_string())
}

/// SaveHotSnapshot: holds everything still, copies, lets it go on.
pub(super) async fn save_hot(runner: &Runner, name: &str) -> BackendResult<String> {
    let _one_at_a_time = runner.0.snapshots.lock().await;
    let cluster = runner.ready()?;
    let path = place(&runner.0.settings.snapshots, name)?;
    let old = path.clone();
    if path.exists() && !blocking(move || Ok(check(&old).is_ok_and(|(d, _)| d.hot))).await? {
        return fault(format!("snapshot {name:?} already exists"));
    }
    // No operation may be half way through; the order is that of the names, the same for everybody.
    let nodes = cluster.nodes();
    let mut turns = Vec::with_capacity(nodes.len());
    for node in &nodes {
        turns.push(super::operations::turn(&cluster, node).await?);
    }
    let description = describe(&cluster, true);
    let still = hold(&cluster).await?;
    let (sources, target) = (sources(&cluster), path.clone());
    let copied = blocking(move || {
        let partial = Partial::new(&target)?;
        copy_all(&sources, &partial.0, Some(Instant::now() + STILL))?;
        Ok(partial)
    });
    let copied = copied.await;
    drop(still);
    drop(turns);
    let (partial, target) = (copied?, path.clone());
    blocking(move || partial.finish(&description, &target)).await?;
    Ok(path.display().to_string())
}

/// Everything that was stopped goes on when this is dropped.
struct Still(Vec<Process>);

impl Drop for Still {
    fn drop(&mut self) {
        self.0.iter().for_each(Process::thaw);
    }
}

/// Stops all processes that are not paused, side by side, services included.
async fn hold(cluster: &Cluster) -> BackendResult<Still> {
    let running = cluster.nodes().into_iter().filter(|n| !n.is_paused()).filter_map(|n| n.process());
    let all: Vec<Process> =
        running.chain(cluster.services.process.clone()).filter(|p| p.status().is_none()).collect();
    let still = Still(all.clone());
    let mut stopping = JoinSet::new();
    for process in all {
        stopping.spawn(async move { process.freeze(FREEZE).await || process.status().is_some() });
    }
    let mut stopped = true;
    while let Some(one) = stopping.join_next().await {
        stopped &= one.unwrap_or(false);
    }
    if stopped { Ok(still) } else { fault("snapshot: a process did not stop in time; nothing was kept") }
}

fn describe(cluster: &Cluster, hot: bool) -> Description {
    Description {
        version: VERSION,
        hot,
        plan: cluster.plan.clone(),
        nodes: cluster.nodes().iter().map(|n| n.spec()).collect(),
        chains: cluster.chains(),
    }
}

/// What is copied, and where to below the snapshot.
fn sources(cluster: &Cluster) -> Vec<(PathBuf, PathBuf)> {
    let services = (cluster.root.join("services/registry"), PathBuf::from("services/registry"));
    let nodes = cluster.nodes().into_iter().map(|n| (n.state_dir(), Path::new("nodes").join(&n.name)));
    nodes.chain([services]).collect()
}

fn copy_all(sources: &[(PathBuf, PathBuf)], into: &Path, deadline: Option<Instant>) -> BackendResult<()> {
    for (from, to) in sources {
        copy_tree(from, &into.join(to), deadline)?;
    }
    Ok(())
}

/// Copies directories and regular files; sockets and links are left out.
fn copy_tree(from: &Path, to: &Path, deadline: Option<Instant>) -> BackendResult<()> {
    make_dir(to).map_err(io("make a directory"))?;
    let entries = match fs::read_dir(from) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io("read a directory")(e)),
    };
    for entry in entries {
        if deadline.is_some_and(|d| Instant::now() > d) {
            return fault(format!(
                "snapshot: copying took longer than {} s; nothing was kept",
                STILL.as_secs()
            ));
        }
        let entry = entry.map_err(io("read a directory"))?;
        let (kind, to) = (entry.file_type().map_err(io("read a directory"))?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy_tree(&entry.path(), &to, deadline)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &to).map_err(io("copy a file"))?;
            fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).map_err(io("copy a file"))?;
        }
    }
    Ok(())
}

/// A snapshot that is not complete; removed when dropped.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Partial {
    fn new(target: &Path) -> BackendResult<Partial> {
        let path = aside(target, "partial");
        // What an interrupted save left.
        let _ = fs::remove_dir_all(&path);
        make_dir(&path).map_err(io("make a directory"))?;
        Ok(Partial(path))
    }

    /// Describes it, puts it on the disk, gives it its name. One of that name is replaced in one step.
    fn finish(self, description: &Description, target: &Path) -> BackendResult<()> {
        write(&self.0.join("network.json"), &json(description)?).map_err(io("write network.json"))?;
        let mut manifest = Manifest::default();
        list(&self.0, &self.0, &mut manifest)?;
        write(&self.0.join("manifest.json"), &json(&manifest)?).map_err(io("write manifest.json"))?;
        sync(&self.0).map_err(io("write to the disk"))?;
        if target.exists() {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            renameat_with(CWD, &self.0, CWD, target, RenameFlags::EXCHANGE)
                .map_err(|e| io("rename")(e.into()))?;
        } else {
            fs::rename(&self.0, target).map_err(io("rename"))?;
        }
        sync_dir(target.parent().unwrap_or(Path::new("."))).map_err(io("write to the disk"))
    }
}

/// One of our two descriptions as a file's content.
fn json(value: &impl Serialize) -> BackendResult<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|e| BackendError::new(format!("snapshot: {e}")))
}

/// A hidden name beside a snapshot's own, which no snapshot can have.
fn aside(target: &Path, what: &str) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{what}"))
}

/// Enters every file below `dir`.
fn list(top: &Path, dir: &Path, manifest: &mut Manifest) -> BackendResult<()> {
    for entry in fs::read_dir(dir).map_err(io("read a directory"))? {
        let path = entry.map_err(io("read a directory"))?.path();
        if path.is_dir() {
            list(top, &path, manifest)?;
        } else {
            let name = path.strip_prefix(top).unwrap_or(&path).to_string_lossy().into_owned();
            manifest.files.insert(name, entry_of(&path).map_err(io("read a file"))?);
        }
    }
    Ok(())
}

fn entry_of(path: &Path) -> std::io::Result<Entry> {
    let (mut file, mut hash, mut size) = (fs::File::open(path)?, Sha256::new(), 0);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Entry { size, sha256: hex::encode(hash.finalize()) }),
            count => {
                hash.update(&buffer[..count]);
                size += count as u64;
            }
        }
    }
}

fn sync(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { sync(&path)? } else { fs::File::open(&path)?.sync_all()? }
    }
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> std::io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

/// Reads a snapshot and proves that every file is what the manifest says.
fn check(path: &Path) -> BackendResult<(Description, Manifest)> {
    let damaged = |what: String| BackendError::new(format!("snapshot: damaged: {what}"));
    let read = |name: &str| {
        let mut text = Vec::new();
        let file = fs::File::open(path.join(name)).map_err(|e| damaged(format!("{name}: {e}")))?;
        file.take(MAX_JSON).read_to_end(&mut text).map_err(|e| damaged(format!("{name}: {e}")))?;
        Ok::<_, BackendError>(text)
    };
    let manifest: Manifest = serde_json::from_slice(&read("manifest.json")?)
        .map_err(|e| damaged(format!("manifest.json: {e}")))?;
    if manifest.files.len() > MAX_FILES || !manifest.files.contains_key("network.json") {
        return Err(damaged("manifest.json lists too many files, or not network.json".into()));
    }
    for (name, expected) in &manifest.files {
        if !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(damaged(format!("manifest.json: {name:?} is no path within the snapshot")));
        }
        let found = entry_of(&path.join(name)).map_err(|e| damaged(format!("{name}: {e}")))?;
        if found != *expected {
            return Err(damaged(format!("{name} is not what manifest.json says")));
        }
    }
    let description: Description =
        serde_json::from_slice(&read("network.json")?).map_err(|e| damaged(format!("network.json: {e}")))?;
    if description.version != VERSION {
        return fault(format!("snapshot: version {} is not supported", description.version));
    }
    for node in &description.nodes {
        check_name(&node.name).map_err(|e| damaged(e.0))?;
    }
    Ok((description, manifest))
}

/// LoadSnapshot, with the runner claimed for it.
pub(super) async fn load(
    runner: &Runner,
    token: CancellationToken,
    request: LoadSnapshot,
) -> BackendResult<ClusterInfo> {
    let prepared = prepare(runner, request).await;
    let (root, plan, specs, chains) = match prepared {
        Ok(prepared) => prepared,
        Err(e) => {
            runner.set_phase(Phase::Empty);
            return Err(e);
        }
    };
    let cluster = runner.bring_up(token, root, plan, specs).await?;
    chains.into_iter().for_each(|chain| cluster.note_chain(chain));
    Ok(cluster.info())
}

type Prepared = (PathBuf, Plan, Vec<NodeSpec>, Vec<Chain>);

/// Checks everything and copies the files into a new cluster directory.
async fn prepare(runner: &Runner, request: LoadSnapshot) -> BackendResult<Prepared> {
    let path = place(&runner.0.settings.snapshots, &request.snapshot_name)?;
    if !path.is_dir() {
        return fault("snapshot not found");
    }
    let source = path.clone();
    let (description, manifest) = blocking(move || check(&source)).await?;
    let Description { mut plan, mut nodes, chains, .. } = description;
    let over = Maps {
        chains: request.chain_configs,
        upgrades: request.upgrade_configs,
        files: request.chain_config_files,
    };
    let over = over.checked()?;
    plan.maps = plan.maps.over(&over);
    plan.global = laid_over(plan.global.as_deref(), request.global_node_config.as_deref())?;
    plan.reassign = request.reassign_ports_if_used.unwrap_or(false);
    if text_at(&global_config(plan.global.as_deref())?, "registry", "addr").is_some() {
        return fault(
            "snapshot: identities are in use twice when it is loaded at an outside registry; load it without one",
        );
    }
    let exec = request.exec_path.filter(|p| !p.is_empty());
    let saved = |path: &Path| match *path == runner.0.settings.exec {
        true => Ok(path.to_owned()),
        false => runner.exec(&path.display().to_string()),
    };
    let saved_plugins = |path: &Option<PathBuf>| match path {
        Some(path) if runner.0.settings.plugin_dir.as_ref() != Some(path) => {
            runner.plugin_dir(&path.display().to_string())
        }
        known => Ok(known.clone()),
    };
    for (node_exec, node_plugins) in nodes
        .iter_mut()
        .map(|n| (&mut n.exec, &mut n.plugin_dir))
        .chain([(&mut plan.exec, &mut plan.plugin_dir)])
    {
        *node_exec = match &exec {
            Some(path) => runner.exec(path)?,
            None => saved(node_exec)?,
        };
        *node_plugins = match request.plugin_dir.is_empty() {
            false => runner.plugin_dir(&request.plugin_dir)?,
            true => saved_plugins(node_plugins)?,
        };
    }
    for node in &mut nodes {
        node.maps = node.maps.clone().checked()?.over(&over);
    }
    let root = make_root(&runner.root_base(request.root_data_dir.as_deref())?)?;
    let into = root.clone();
    blocking(move || {
        for name in manifest.files.keys() {
            let mut parts = Path::new(name).components();
            let to = match parts.next().map(|p| p.as_os_str().to_owned()) {
                Some(top) if top == "services" => into.join(name),
                Some(top) if top == "nodes" => {
                    let Some(node) = parts.next() else { continue };
                    into.join(node).join("state").join(parts.as_path())
                }
                _ => continue,
            };
            make_dir(to.parent().unwrap_or(&into)).map_err(io("make a directory"))?;
            fs::copy(path.join(name), &to).map_err(io("copy a file"))?;
            fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).map_err(io("copy a file"))?;
        }
        Ok(())
    })
    .await?;
    Ok((root, plan, nodes, chains))
}

/// One JSON object over another, key by key.
fn laid_over(below: Option<&str>, above: Option<&str>) -> BackendResult<Option<String>> {
    let read = |text: Option<&str>| object("global node config", text.unwrap_or_default());
    let (Some(above), below) = (read(above)?, read(below)?) else { return Ok(below.map(str::to_owned)) };
    let mut merged: Map<String, Value> = below.unwrap_or_default();
    super::spec::lay(&mut merged, above);
    Ok(Some(Value::Object(merged).to_string()))
}

/// RemoveSnapshot.
pub(super) async fn remove(runner: &Runner, name: &str) -> BackendResult<()> {
    let _one_at_a_time = runner.0.snapshots.lock().await;
    let path = place(&runner.0.settings.snapshots, name)?;
    if !path.is_dir() {
        return fault("snapshot not found");
    }
    blocking(move || {
        let gone = aside(&path, "removed");
        let _ = fs::remove_dir_all(&gone);
        fs::rename(&path, &gone).map_err(io("rename"))?;
        fs::remove_dir_all(&gone).map_err(io("remove"))
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> BackendResult<T> + Send + 'static,
) -> BackendResult<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(e) => fault(format!("snapshot: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description() -> Description {
        let plan = Plan {
            exec: "/x".into(),
            plugin_dir: None,
            global: None,
            maps: Maps::default(),
            reassign: false,
        };
        Description { version: VERSION, hot: true, plan, nodes: Vec::new(), chains: Vec::new() }
    }

    fn saved(dir: &Path, content: &str) -> PathBuf {
        let source = dir.join("source");
        fs::create_dir_all(source.join("deep")).unwrap();
        fs::write(source.join("deep/file"), content).unwrap();
        let target = place(dir, "x").unwrap();
        let partial = Partial::new(&target).unwrap();
        copy_all(&[(source, "nodes/a".into())], &partial.0, None).unwrap();
        partial.finish(&description(), &target).unwrap();
        target
    }

    #[test]
    fn written_checked_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = saved(dir.path(), "one");
        assert_eq!(names(dir.path()).unwrap(), ["x"]);
        assert_eq!(check(&path).unwrap().1.files.len(), 2);
        saved(dir.path(), "two");
        assert_eq!(fs::read_to_string(path.join("nodes/a/deep/file")).unwrap(), "two");
        assert_eq!(names(dir.path()).unwrap(), ["x"]);
        assert!(!aside(&path, "partial").exists());
    }

    #[test]
    fn damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = saved(dir.path(), "one");
        let text = |path: &Path| check(path).map(|_| ()).unwrap_err().0;
        fs::write(path.join("nodes/a/deep/file"), "oNe").unwrap();
        assert_eq!(text(&path), "snapshot: damaged: nodes/a/deep/file is not what manifest.json says");
        fs::remove_file(path.join("nodes/a/deep/file")).unwrap();
        assert!(text(&path).starts_with("snapshot: damaged: nodes/a/deep/file: "));
        let manifest = fs::read_to_string(path.join("manifest.json")).unwrap();
        fs::write(path.join("manifest.json"), manifest.replace("nodes/a", "../a")).unwrap();
        assert!(text(&path).contains("is no path within the snapshot"));
        fs::write(path.join("manifest.json"), "{").unwrap();
        assert!(text(&path).starts_with("snapshot: damaged: manifest.json: "));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for bad in ["", "../x", "a/b", ".."] {
            assert_eq!(place(Path::new("/s"), bad).unwrap_err().0, format!("invalid snapshotName {bad:?}"));
        }
        assert_eq!(names(Path::new("/nowhere/at/all")), Ok(Vec::new()));
    }
}
