//! Clusters for tests: the network runner as a process of its own, and the hosts that it starts. For tests with three or
//! more hosts; it brings registry and beacon, waits for health, and everything ends with it, however the test ends.

use super::*;

/// A runner process and its directory.
pub struct Runner {
    pub process: Process,
    pub dir: PathBuf,
    pub address: String,
    _own: Option<tempfile::TempDir>,
}

impl Runner {
    pub fn start() -> Runner {
        let own = temp_dir();
        let mut runner = Runner::start_in(own.path(), "r", &[]);
        runner._own = Some(own);
        runner
    }

    /// With keys below `dir/name`; clusters and snapshots of all runners of one `dir` are together.
    pub fn start_in(dir: &Path, name: &str, extra: &[&str]) -> Runner {
        let plugins = dir.join("plugins");
        if !plugins.exists() {
            stage(&plugins, &PLUGINS);
        }
        let home = dir.join(name);
        let mut command = Command::new(HOST);
        command
            .args(["runner", "serve", "--listen", "127.0.0.1:0", "--healthy-limit", "60", "--dir"])
            .arg(&home);
        command.arg("--root").arg(dir.join("c")).arg("--snapshots").arg(dir.join("s"));
        command.arg("--plugins").arg(&plugins).arg("--exec-allow").arg(dir).arg("--exec-allow");
        command.arg(Path::new(HOST).parent().unwrap()).args(extra);
        let process = Process::spawn(name, &mut command);
        let address = field(&process.wait_line("runner listening"), "address");
        Runner { process, dir: home, address, _own: None }
    }

    /// `pilotctl --json net ...`, which must succeed.
    pub fn net(&self, args: &[&str]) -> Value {
        let out = Command::new(CTL)
            .args(["--json", "net", "--runner-dir"])
            .arg(&self.dir)
            .args(args)
            .output()
            .unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "pilotctl net {args:?}: {stdout}{stderr}");
        serde_json::from_str::<Value>(&stdout).unwrap()["data"].take()
    }
}

/// A runner with one cluster, healthy when this is made. Every node has the four plugins.
pub struct Cluster {
    pub runner: Runner,
    root: PathBuf,
}

impl Cluster {
    /// Nodes by name, each with settings of its own (the tables of `pilot.toml` as JSON), and `global` ones for all.
    pub fn start(nodes: &[(&str, Value)], global: &Value) -> Cluster {
        let runner = Runner::start();
        let write = |name: &str, settings: &Value| {
            let path = runner.dir.join(format!("{name}.json"));
            std::fs::write(&path, settings.to_string()).unwrap();
            path.display().to_string()
        };
        let mut args = vec!["start".to_owned(), "--config".to_owned(), write("global", global)];
        for (name, settings) in nodes {
            args.extend(["--node".to_owned(), format!("{name}={}", write(name, settings))]);
        }
        let up = runner.net(&args.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(up["healthy"], true, "{up}");
        let root = PathBuf::from(up["root"].as_str().unwrap());
        Cluster { runner, root }
    }

    pub fn node(&self, name: &str) -> Node {
        let row = self.row(name);
        let path = |key: &str| PathBuf::from(row[key].as_str().unwrap().trim_start_matches("unix://"));
        Node {
            name: name.to_owned(),
            socket: path("uri"),
            state: path("state_dir"),
            home: self.root.join(name),
        }
    }

    /// Ends a node's process behind the runner's back, and waits until the runner has seen that.
    pub fn signal(&self, name: &str, signal: &str) {
        let pid = self.pids()[name].to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        eventually("the runner's notice", || (self.row(name)["state"] == "exited").then_some(()));
    }

    /// Stops a node, if it still runs, and starts it again; it is registered and its plugins run when this returns.
    pub fn restart(&self, name: &str) -> Node {
        self.runner.net(&["restart", name]);
        let node = self.node(name);
        // Not the runner's own wait, which is for all nodes: others may be away on purpose.
        eventually("the node's start", || {
            let data = |args: &[&str]| -> Option<Value> {
                let out = node.ctl(args);
                Some(serde_json::from_slice::<Value>(&out.stdout).ok()?["data"].take())
            };
            let plugins = data(&["plugins"])?;
            let running = plugins["plugins"].as_array()?.iter().filter(|p| p["state"] == "running").count();
            (running == PLUGINS.len() && data(&["info"])?["registered"] == true).then_some(())
        });
        node
    }

    /// A network of the cluster's registry with every node in it; its number.
    pub fn network(&self, blueprint: &Value) -> String {
        let path = self.runner.dir.join("blueprint.json");
        std::fs::write(&path, blueprint.to_string()).unwrap();
        let made = self.runner.net(&["provision", path.to_str().unwrap()]);
        made["network_ids"][0].as_str().unwrap().to_owned()
    }

    fn row(&self, name: &str) -> Value {
        let status = self.runner.net(&["status"]);
        let row = status["nodes"].as_array().unwrap().iter().find(|n| n["name"] == name);
        row.unwrap_or_else(|| panic!("no node {name}: {status}")).clone()
    }

    /// The processes of the cluster by name, the services among them.
    pub fn pids(&self) -> std::collections::BTreeMap<String, i32> {
        pids(&self.root)
    }
}

/// The processes of the cluster in `root`, from the runner's own list.
pub fn pids(root: &Path) -> std::collections::BTreeMap<String, i32> {
    let text = std::fs::read(root.join("runner.json")).unwrap();
    let list: Value = serde_json::from_slice(&text).unwrap();
    let entry = |p: &Value| (p["name"].as_str().unwrap().to_owned(), p["pid"].as_i64().unwrap() as i32);
    list["processes"].as_array().unwrap().iter().map(entry).collect()
}
