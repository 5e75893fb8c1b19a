//! Sizes of the images and the time of a start, written to image/figures.md below the target directory; docs/container.md
//! quotes them. No test depends on a time.

use super::image::five_variables;
use super::pod::{Pod, VERSION, released, target_dir};
use crate::support::Client;
use crate::support::bouncer::end_with_the_test;
use rds_sim::DnsServer;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Starts of which the median is shown.
const STARTS: usize = 9;

/// Bytes of an image's compressed layers: what a registry transfers.
fn compressed_bytes(tag: &str) -> u64 {
    let layout = target_dir().join("image/oci");
    let read =
        |path: &Path| -> Value { serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap() };
    let index = read(&layout.join("index.json"));
    let images = index["manifests"].as_array().unwrap();
    let of_tag = |image: &&Value| image["annotations"]["org.opencontainers.image.ref.name"] == tag;
    let digest = images.iter().find(of_tag).expect("the tag")["digest"].as_str().unwrap();
    let manifest = read(&layout.join("blobs").join(digest.replace(':', "/")));
    manifest["layers"].as_array().unwrap().iter().map(|layer| layer["size"].as_u64().unwrap()).sum()
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// From the start of a program to the answer to the first query of the first client, with the login at the database.
fn time_to_first_query(start: impl FnOnce()) -> Duration {
    let started = Instant::now();
    start();
    while std::net::TcpStream::connect("127.0.0.1:6432").is_err() {
        std::thread::yield_now();
    }
    assert_eq!(Client::log_in(6432, "anyone", "app").value("SELECT 1"), "1");
    started.elapsed()
}

fn median(mut times: Vec<Duration>) -> u128 {
    times.sort();
    times[times.len() / 2].as_millis()
}

fn of_binary(pod: &Pod, dns: &DnsServer) -> Duration {
    let mut command = Command::new(released("iambouncer"));
    command.env_clear().envs(five_variables()).envs(pod.environment());
    command.env("IAMBOUNCER_SERVER_TLS_CA_FILE", pod.sim.ca_file());
    command.env("IAMBOUNCER_DNS_SERVER", dns.address().to_string()).stderr(Stdio::null());
    end_with_the_test(&mut command);
    let mut child = None;
    let time = time_to_first_query(|| child = Some(command.spawn().unwrap()));
    let mut child = child.unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    time
}

fn of_image(pod: &Pod) -> Duration {
    let mut environment = five_variables();
    environment.extend(pod.environment());
    let mut container = None;
    let time = time_to_first_query(|| container = Some(pod.start(VERSION, &environment, &[])));
    drop(container);
    time
}

#[test]
#[ignore = "needs what tools/images builds: make test-deploy"]
fn sizes_and_starts_are_measured() {
    let pod = Pod::new();
    let dns = pod.dns();
    let binary = median((0..STARTS).map(|_| of_binary(&pod, &dns)).collect());
    let image = median((0..STARTS).map(|_| of_image(&pod)).collect());
    let size = std::fs::metadata(released("iambouncer")).unwrap().len();
    let debug = format!("{VERSION}-debug");
    let figures = format!(
        "| | |\n|---|---|\n| static binary | {} |\n| image, compressed | {} |\n| image `-debug`, compressed | {} |\n\
         | start of the binary to the first answer | {binary} ms |\n\
         | start of the container (runc) to the first answer | {image} ms |\n",
        mebibytes(size),
        mebibytes(compressed_bytes(VERSION)),
        mebibytes(compressed_bytes(&debug)),
    );
    std::fs::write(target_dir().join("image/figures.md"), figures).unwrap();
}
