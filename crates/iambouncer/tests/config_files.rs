//! Complete configuration files as found in practice.

use std::path::Path;

use iambouncer::config::{
    AuthType, MapEnvironment, PoolMode, ServerAuth, TlsMode, load_file, load_user_list,
};

fn data(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

#[test]
fn a_pgbouncer_file_of_a_django_pod_needs_one_added_word() {
    let loaded = load_file(&data("django-pod.ini"), &MapEnvironment::default(), &[]).expect("usable");
    let warnings = loaded.warnings.to_string();
    assert_eq!(warnings, "");
    let config = loaded.config;
    let settings = &config.settings;
    assert_eq!((settings.pool_mode, settings.auth_type), (PoolMode::Transaction, AuthType::Trust));
    assert_eq!(
        (settings.max_client_conn, settings.default_pool_size, settings.reserve_pool_size),
        (4000, 20, 5)
    );
    assert_eq!(settings.server_tls_sslmode, TlsMode::VerifyFull);
    let shop = config.database_for("shop").expect("configured");
    assert_eq!((shop.server_auth, shop.user.as_deref()), (ServerAuth::Iam, Some("shop_app")));
    assert!(config.database_for("other").is_none());
}

#[test]
fn includes_and_user_lists_are_read_from_disk() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let users = directory.path().join("userlist.txt");
    std::fs::write(&users, "\"ann\" \"secret\"\n").expect("write");
    let inner = directory.path().join("databases.ini");
    std::fs::write(&inner, "[databases]\napp = host=db\n").expect("write");
    let outer = directory.path().join("main.ini");
    let text = format!("%include {}\n[iambouncer]\nauth_file = {}\n", inner.display(), users.display());
    std::fs::write(&outer, text).expect("write");
    let config = load_file(&outer, &MapEnvironment::default(), &[]).expect("usable").config;
    assert!(config.database_for("app").is_some());
    let users = load_user_list(Path::new(&config.settings.auth_file)).expect("readable");
    assert_eq!(users["ann"].password.expose(), "secret");
}
