//! A pod: containers that share the network of the test, a database at an address of its own, and the files that a
//! container runtime mounts. Owns the containers, which are run by runc and end with their value.

use crate::support::program::{self, ProgramOutput};
use crate::support::sim::{REGION, Sim};
use crate::support::{TIMEOUT, eventually, postgres};
use rds_sim::{DnsEntry, DnsServer};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The name of the database in the manifests.
pub(super) const DATABASE_HOST: &str = "mydb.c9akciq32rgh.eu-west-1.rds.amazonaws.com";
/// Its address, which is not of the loopback network: the pooler listens at port 5432, too.
const DATABASE_ADDRESS: [u8; 4] = [10, 99, 0, 1];
const DATABASE_PORT: u16 = 5432;
/// Where the containers find the CA of the simulated database.
const CA_FILE: &str = "/ca.pem";

/// Where a mounted configuration file is.
const CONFIG_FILE: &str = "/pgbouncer.ini";

/// The directory of build output.
pub(super) fn target_dir() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned()
}

/// A file that tools/dist has made.
pub(super) fn released(name: &str) -> PathBuf {
    let path = target_dir().join("dist").join(name);
    assert!(path.exists(), "{} is missing: run make test-deploy", path.display());
    path
}

/// The version in the names of files and tags.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The network, the database and the mounted files.
pub(super) struct Pod {
    pub(super) sim: Sim,
    dir: tempfile::TempDir,
}

impl Pod {
    /// A pod that finds the database under the name of the manifests. The process must be alone in its network.
    pub(super) fn new() -> Self {
        assert_private_network();
        let listen = SocketAddr::from((DATABASE_ADDRESS, DATABASE_PORT));
        add_address(DATABASE_ADDRESS);
        let sim = Sim::listening_at(listen, None, postgres(), DATABASE_HOST, REGION, &["app"]);
        let dir = tempfile::tempdir().unwrap();
        let address = IpAddr::from(DATABASE_ADDRESS);
        std::fs::write(dir.path().join("hosts"), format!("127.0.0.1 localhost\n{address} {DATABASE_HOST}\n"))
            .unwrap();
        // No name server: the names of the pod are in the file above.
        std::fs::write(
            dir.path().join("resolv.conf"),
            "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
        )
        .unwrap();
        std::fs::copy(sim.ca_file(), dir.path().join("ca.pem")).unwrap();
        Self { sim, dir }
    }

    /// Replaces the names that containers started from now on resolve.
    pub(super) fn set_hosts(&self, text: &str) {
        std::fs::write(self.dir.path().join("hosts"), text).unwrap();
    }

    /// What a pod's identity and its cluster provide: credentials, and here the CA of the simulated database.
    pub(super) fn environment(&self) -> Vec<(String, String)> {
        let mut environment = self.sim.environment();
        environment.push(("IAMBOUNCER_SERVER_TLS_CA_FILE".to_owned(), CA_FILE.to_owned()));
        environment
    }

    /// Starts a container of an image with these variables in addition, and the image's entry point or `command`.
    pub(super) fn start(&self, tag: &str, environment: &[(String, String)], command: &[&str]) -> Container {
        self.start_with(tag, environment, command, Security::default())
    }

    /// As [`start`](Self::start), with fewer rights.
    pub(super) fn start_with(
        &self,
        tag: &str,
        environment: &[(String, String)],
        command: &[&str],
        security: Security,
    ) -> Container {
        Container::start(tag, environment, command, &self.mounts(), security)
    }

    /// Starts a container with a directory that it may write to.
    pub(super) fn start_with_directory(
        &self,
        tag: &str,
        environment: &[(String, String)],
        command: &[&str],
        (source, at): (&Path, &'static str),
    ) -> Container {
        let mut mounts = self.mounts();
        mounts.push((source.to_owned(), at));
        Container::start(tag, environment, command, &mounts, Security::default())
    }

    /// Starts the pooler of an image with a configuration file.
    pub(super) fn start_with_file(
        &self,
        tag: &str,
        environment: &[(String, String)],
        text: &str,
    ) -> Container {
        let file = self.dir.path().join("pgbouncer.ini");
        std::fs::write(&file, text).unwrap();
        let mut mounts = self.mounts();
        mounts.push((file, CONFIG_FILE));
        Container::start(tag, environment, &["/iambouncer", CONFIG_FILE], &mounts, Security::default())
    }

    /// Gives a root file system what a runtime mounts.
    pub(super) fn copy_mounts(&self, root: &Path) {
        for (source, at) in self.mounts() {
            std::fs::copy(source, root.join(at.trim_start_matches('/'))).unwrap();
        }
    }

    /// A name server that knows the database, for programs that run without the pod's files.
    pub(super) fn dns(&self) -> DnsServer {
        let dns = self.sim.dns();
        dns.set(DATABASE_HOST, DnsEntry::Addresses(vec![DATABASE_ADDRESS.into()]));
        dns
    }

    fn mounts(&self) -> Vec<(PathBuf, &'static str)> {
        let mounts = [("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf"), ("ca.pem", CA_FILE)];
        mounts.map(|(name, at)| (self.dir.path().join(name), at)).to_vec()
    }
}

/// Gives the network of the test an address.
pub(super) fn add_address(address: [u8; 4]) {
    let address = format!("{}/32", IpAddr::from(address));
    let added = Command::new("ip").args(["address", "replace", &address, "dev", "lo"]).status().unwrap();
    assert!(added.success(), "{address} cannot be added");
}

/// The tests use the ports of the image and change addresses, so they must not run in the network of the host.
pub(super) fn assert_private_network() {
    let links = program::to_end(Command::new("ip").args(["-json", "link"]));
    let links: Value = serde_json::from_str(&links.stdout).expect("ip -json link");
    let is_alone = links.as_array().is_some_and(|links| links.iter().all(|link| link["ifname"] == "lo"));
    assert!(is_alone, "not in a network of its own: run make test-deploy");
}

/// Rights of a container.
pub(super) struct Security {
    pub(super) has_capabilities: bool,
    /// A seccomp profile in the format of runc.
    pub(super) seccomp: Option<Value>,
}

impl Default for Security {
    fn default() -> Self {
        Self { has_capabilities: true, seccomp: None }
    }
}

/// A running container.
pub(super) struct Container {
    id: String,
    child: Child,
    dir: tempfile::TempDir,
}

impl Container {
    fn start(
        tag: &str,
        environment: &[(String, String)],
        command: &[&str],
        mounts: &[(PathBuf, &str)],
        security: Security,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = configuration(tag, environment, command, mounts);
        if !security.has_capabilities {
            config["process"]["capabilities"] = json!({});
        }
        if let Some(profile) = security.seccomp {
            config["linux"]["seccomp"] = profile;
        }
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let id = dir.path().file_name().unwrap().to_string_lossy().trim_start_matches('.').to_owned();
        let log = File::create(dir.path().join("log")).unwrap();
        let mut run = runc(dir.path());
        run.args(["run", "--bundle"]).arg(dir.path()).arg(&id);
        let child = run.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        Self { id, child, dir }
    }

    /// Runs a program in the container.
    pub(super) fn exec(&self, command: &[&str]) -> ProgramOutput {
        program::to_end(runc(self.dir.path()).args(["exec", &self.id]).args(command))
    }

    /// Everything that the container has written.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Waits until the log contains a text.
    pub(super) fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + TIMEOUT;
        while !self.log().contains(text) {
            let has_ended = self.child.try_wait().unwrap().is_some();
            assert!(!has_ended && Instant::now() < deadline, "no \"{text}\" in:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The process ID of its first process, in the namespace of the test.
    fn pid(&self) -> Pid {
        let state = program::to_end(runc(self.dir.path()).args(["state", &self.id]));
        let state: Value = serde_json::from_str(&state.stdout).expect("the state of the container");
        Pid::from_raw(state["pid"].as_i64().unwrap() as i32).unwrap()
    }

    /// Stops it as a runtime does, and returns its exit status.
    pub(super) fn stop(&mut self) -> ExitStatus {
        kill_process(self.pid(), Signal::TERM).unwrap();
        self.wait()
    }

    /// Waits until it has ended.
    pub(super) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the container ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = runc(self.dir.path()).args(["delete", "--force", &self.id]).output();
        let _ = self.child.wait();
    }
}

/// runc with a state directory of its own, so that containers of the host are not touched.
fn runc(dir: &Path) -> Command {
    let mut command = Command::new("runc");
    command.arg("--root").arg(dir.join("state"));
    command
}

/// The bundle that tools/images has unpacked from an image.
pub(super) fn bundle(tag: &str) -> PathBuf {
    let bundle = target_dir().join("image/bundle").join(tag);
    assert!(bundle.exists(), "{} is missing: run make test-deploy", bundle.display());
    bundle
}

/// The image's own configuration, read-only, in the network of the test.
fn configuration(
    tag: &str,
    environment: &[(String, String)],
    command: &[&str],
    mounts: &[(PathBuf, &str)],
) -> Value {
    let bundle = bundle(tag);
    let text = std::fs::read_to_string(bundle.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["root"] = json!({ "path": bundle.join("rootfs"), "readonly": true });
    config["process"]["terminal"] = json!(false);
    config["process"]["noNewPrivileges"] = json!(true);
    if !command.is_empty() {
        config["process"]["args"] = json!(command);
    }
    let variables = config["process"]["env"].as_array_mut().unwrap();
    variables.extend(environment.iter().map(|(name, value)| json!(format!("{name}={value}"))));
    let all = config["mounts"].as_array_mut().unwrap();
    all.extend(mounts.iter().map(|(source, destination)| {
        let access = if source.is_dir() { "rw" } else { "ro" };
        json!({ "source": source, "destination": destination, "type": "bind", "options": ["bind", access] })
    }));
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "network");
    // Control groups are not what is tested, and not every host lets a test create them.
    config["linux"].as_object_mut().unwrap().remove("resources");
    config
}
