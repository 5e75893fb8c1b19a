//! A directory without server processes, for tests. Owns the process and the configuration that it is created from.

use super::{Directory, SharedPools};
use crate::config::{self, Config, MapEnvironment};
use crate::context::{ConfigFiles, Context};
use crate::process::{Process, ProcessParts};
use crate::worker::{
    self, executor,
    reactor::EngineKind,
    workers::{WorkerIndex, WorkerSlot},
};
use rds_iam::{AwsCredentials, TokenEngine};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

/// The configuration that an INI file contains.
pub(super) fn config(ini: &str) -> Arc<Config> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pooler.ini");
    std::fs::write(&file, ini).unwrap();
    Arc::new(config::load_file(&file, &MapEnvironment::default(), &[]).unwrap().config)
}

/// Runs a test on a worker with the directory of this configuration.
pub(super) fn run<F: Future<Output = ()> + 'static>(
    ini: &str,
    test: impl FnOnce(Rc<Directory>) -> F + 'static,
) {
    let control = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let config = config(ini);
    let parts = ProcessParts {
        control: control.handle().clone(),
        tokens: TokenEngine::new(AwsCredentials::shared()),
        resolver: None,
        own_endpoints: Vec::new(),
        workers: 1,
        first_login: crate::health_state::FirstLogin::NotNeeded,
    };
    let process = Process::new(&config, parts).unwrap();
    let (users, ident) = (Arc::default(), Arc::default());
    let (hba, ldap_tls) = Default::default();
    let loaded = ConfigFiles {
        config,
        users,
        users_stamp: None,
        ident,
        hba,
        ldap_tls,
        server_tls: None,
        client_tls: None,
        secrets: Default::default(),
    };
    let outcome = worker::run(EngineKind::Epoll, async move {
        let context = Rc::new(Context::new(process, loaded, WorkerIndex::ONLY));
        let workers = WorkerSlot::<Directory>::create(1)[0].workers();
        test(Directory::new(context, Arc::new(SharedPools::new(1)), workers)).await;
    });
    outcome.unwrap();
}

/// Counts the turns of the worker from now on.
pub(super) fn count_turns() -> Rc<Cell<usize>> {
    let turns = Rc::new(Cell::new(0));
    let counted = turns.clone();
    executor::spawn(async move {
        loop {
            counted.set(counted.get() + 1);
            executor::yield_now().await;
        }
    });
    turns
}
