//! The manifests: their containers are run as the kubelet would, with the same images, variables, accounts, probes and
//! commands, in one network.

use super::pod::{Container, Pod, Security, VERSION, target_dir};
use crate::support::{eventually, http, program};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const TO_JSON: &str = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
/// Time in which a sidecar without clients ends; its grace period is 30 seconds.
const END_LIMIT: Duration = Duration::from_secs(5);
/// The system calls by which the profile differs from the default of container runtimes.
const RING_CALLS: [&str; 3] = ["io_uring_setup", "io_uring_enter", "io_uring_register"];

pub(super) fn deploy_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(name)
}

/// A YAML file with one document.
pub(super) fn yaml(name: &str) -> Value {
    let python = target_dir().join("deploy/python/bin/python");
    assert!(python.exists(), "{} is missing: run make test-deploy", python.display());
    let read = program::to_end(Command::new(python).args(["-c", TO_JSON]).arg(deploy_file(name)));
    serde_json::from_str(&read.stdout).unwrap_or_else(|error| panic!("{error}: {read:?}"))
}

fn variables(container: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let all = container["env"].as_array().expect("variables").iter();
    all.map(|variable| (text(&variable["name"]), text(&variable["value"]))).collect()
}

pub(super) fn words(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|word| word.as_str().expect("a word")).collect()
}

fn tag(container: &Value) -> &str {
    container["image"].as_str().and_then(|image| image.rsplit_once(':')).expect("an image with a tag").1
}

/// Containers of the manifest's pod.
struct PodSpec(Value);

impl PodSpec {
    fn of(manifest: &str) -> Self {
        Self(yaml(manifest)["spec"]["template"]["spec"].clone())
    }

    fn sidecar(&self) -> &Value {
        let sidecar = &self.0["initContainers"][0];
        assert_eq!(sidecar["restartPolicy"], "Always", "a native sidecar");
        sidecar
    }

    fn application(&self) -> &Value {
        &self.0["containers"][0]
    }

    /// Starts the sidecar.
    fn start(&self, pod: &Pod, security: Security) -> Container {
        let sidecar = self.sidecar();
        let mut environment = variables(sidecar);
        environment.extend(pod.environment());
        let mut container = pod.start_with(tag(sidecar), &environment, &[], security);
        container.wait_for("ready: accepting connections on");
        container
    }

    /// Runs psql in place of the application, with its variables, and returns what it prints.
    fn query(&self, pod: &Pod) -> String {
        let query = ["sh", "-c", "psql \"$DATABASE_URL\" -Atc \"SELECT 'served as ' || current_user\""];
        let image = format!("{VERSION}-debug");
        let mut client = pod.start(&image, &variables(self.application()), &query);
        assert_eq!(client.wait().code(), Some(0), "{}", client.log());
        client.log().trim().to_owned()
    }

    /// Sends a probe of the sidecar, and returns the status.
    fn probe(&self, name: &str) -> u16 {
        let sidecar = self.sidecar();
        let get = &sidecar[name]["httpGet"];
        let ports = sidecar["ports"].as_array().expect("ports");
        let port = ports.iter().find(|port| port["name"] == get["port"]).expect("the port of the probe");
        let number = u16::try_from(port["containerPort"].as_u64().unwrap()).unwrap();
        http::get(number, get["path"].as_str().unwrap()).status
    }
}

/// What the manifests request, with the profile that container runtimes have by default: without io_uring.
fn restricted() -> Security {
    let text = std::fs::read_to_string(deploy_file("kubernetes/seccomp/iambouncer.json")).unwrap();
    let mut profile: Value = serde_json::from_str(&text).unwrap();
    for rule in profile["syscalls"].as_array_mut().unwrap() {
        rule["names"].as_array_mut().unwrap().retain(|name| !RING_CALLS.contains(&name.as_str().unwrap()));
    }
    Security { has_capabilities: false, seccomp: Some(profile) }
}

#[test]
#[ignore = "needs what tools/images builds: make test-deploy"]
fn the_old_sidecar_manifest_works_with_only_the_image_replaced() {
    let pod = Pod::new();
    let spec = PodSpec::of("kubernetes/legacy-sidecar.yaml");
    assert_eq!(spec.sidecar()["ports"], json!([{ "containerPort": 5432 }]));
    let mut pooler = spec.start(&pod, Security::default());
    let probed = pooler.exec(&words(&spec.sidecar()["livenessProbe"]["exec"]["command"]));
    assert!(probed.code == Some(0) && probed.stdout.contains("1 row"), "{probed:?}\n{}", pooler.log());
    assert_eq!(spec.query(&pod), "served as app");
    assert_eq!(pooler.stop().code(), Some(0), "{}", pooler.log());
}

#[test]
#[ignore = "needs what tools/images builds: make test-deploy"]
fn the_sidecar_manifest_serves_its_application_with_restricted_rights() {
    let pod = Pod::new();
    let spec = PodSpec::of("kubernetes/sidecar.yaml");
    let mut pooler = spec.start(&pod, restricted());
    assert!(pooler.log().contains("io_engine = epoll"), "{}", pooler.log());
    assert_eq!((spec.probe("startupProbe"), spec.probe("livenessProbe")), (200, 200));
    assert_eq!(spec.query(&pod), "served as app");
    assert_eq!(pooler.stop().code(), Some(0), "{}", pooler.log());
}

#[test]
#[ignore = "needs what tools/images builds: make test-deploy"]
fn the_sidecar_of_a_job_ends_at_once_after_the_job() {
    let pod = Pod::new();
    let spec = PodSpec::of("kubernetes/job.yaml");
    let mut pooler = spec.start(&pod, restricted());
    eventually("the startup probe, which includes the first login", || spec.probe("startupProbe") == 200);
    assert_eq!(spec.query(&pod), "served as app");
    let stopped = Instant::now();
    assert_eq!(pooler.stop().code(), Some(0), "{}", pooler.log());
    assert!(stopped.elapsed() < END_LIMIT, "{:?}", stopped.elapsed());
}

#[test]
#[ignore = "needs what tools/images builds: make test-deploy"]
fn the_seccomp_profile_permits_io_uring() {
    let pod = Pod::new();
    let text = std::fs::read_to_string(deploy_file("kubernetes/seccomp/iambouncer.json")).unwrap();
    let profile = Some(serde_json::from_str(&text).unwrap());
    let spec = PodSpec::of("kubernetes/sidecar.yaml");
    let pooler = spec.start(&pod, Security { has_capabilities: false, seccomp: profile });
    assert!(pooler.log().contains("io_engine = io_uring"), "{}", pooler.log());
    assert_eq!(spec.query(&pod), "served as app");
}
