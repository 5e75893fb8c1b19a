//! The services of Docker Compose: the simulator, the pooler and psql run in their images, with the options and variables of
//! the file. As all share one network, three addresses are replaced.

use super::manifests::{words, yaml};
use super::pod::{Pod, VERSION, add_address};
use crate::support::{eventually, postgres};
use serde_json::Value;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

/// The address of the simulated database, at port 5432.
const ADDRESS: [u8; 4] = [10, 99, 0, 2];

/// Variables of a service; `replaced` are set instead.
fn variables(service: &Value, replaced: &[(&str, &str)]) -> Vec<(String, String)> {
    let all = service["environment"].as_object().expect("variables").iter();
    all.map(|(name, value)| {
        let given = value.as_str().expect("a text");
        let other = replaced.iter().find(|(other, _)| other == name).map(|(_, value)| *value);
        (name.clone(), other.unwrap_or(given).to_owned())
    })
    .collect()
}

fn tag(service: &Value) -> String {
    let (name, tag) = service["image"].as_str().and_then(|image| image.rsplit_once(':')).expect("an image");
    if name.ends_with("rds-sim") { format!("rds-sim-{tag}") } else { tag.to_owned() }
}

#[test]
#[ignore = "needs what tools/images builds: make test-deploy"]
fn the_services_of_compose_answer_a_query_without_aws() {
    let pod = Pod::new();
    add_address(ADDRESS);
    pod.set_hosts(
        "127.0.0.1 localhost database pooler\n10.99.0.2 mydb.c9akciq32rgh.eu-west-1.rds.amazonaws.com\n",
    );
    let services = &yaml("compose/compose.yaml")["services"];
    let volume = tempfile::tempdir().unwrap();
    // The simulator of the file runs as root, and here as the image's user.
    std::fs::set_permissions(volume.path(), Permissions::from_mode(0o777)).unwrap();

    let backend = format!("--postgres=127.0.0.1:{}", postgres().port());
    let options = words(&services["database"]["command"]).into_iter().map(|option| match option {
        "--postgres=postgres:5432" => backend.as_str(),
        "--listen=0.0.0.0:5432" => "--listen=10.99.0.2:5432",
        other => other,
    });
    let command: Vec<&str> = ["/rds-sim"].into_iter().chain(options).collect();
    let simulator_tag = tag(&services["database"]);
    let mut simulator = pod.start_with_directory(&simulator_tag, &[], &command, (volume.path(), "/tls"));
    simulator.wait_for("ready=true");

    let pooler = &services["pooler"];
    let environment = variables(pooler, &[("IAMBOUNCER_LISTEN_ADDR", "127.0.0.1")]);
    let mut running = pod.start_with_directory(&tag(pooler), &environment, &[], (volume.path(), "/tls"));
    running.wait_for("ready: accepting connections on");
    let check = words(&pooler["healthcheck"]["test"]);
    eventually("the health check", || running.exec(&check[1..]).code == Some(0));

    let client = &services["client"];
    let mut query = words(&client["entrypoint"]);
    query.extend(words(&client["command"]));
    let mut asked = pod.start(&format!("{VERSION}-debug"), &[], &query);
    assert_eq!(asked.wait().code(), Some(0), "{}", asked.log());
    assert!(asked.log().contains("hello, app"), "{}", asked.log());
}
