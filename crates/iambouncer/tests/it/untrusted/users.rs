//! A client that has not logged in must not be able to distinguish existing users from others.

use crate::support::bouncer::Start;
use crate::support::raw::Client;
use crate::support::{Bouncer, postgres};
use iambouncer::auth::md5;
use iambouncer::auth::scram::keys::SaltedPassword;

/// Iterations for tests that measure nothing.
const FEW: u32 = 4096;
/// Enough iterations to measure their time in several logins; the driver refuses more.
const MANY: u32 = 100_000;
const LOGINS: usize = 12;

fn start(auth_type: &str, stored: &str, rounds: u32) -> Bouncer {
    let databases = format!("app = host=127.0.0.1 port={} user=app password=secret", postgres().port());
    Start::databases(&databases)
        .set(&format!("auth_type = {auth_type}"))
        .set(&format!("scram_iterations = {rounds}"))
        .set("admin_users = known")
        .users(&format!("\"known\" \"{stored}\"\n\"twin\" \"{stored}\"\n"))
        .start()
}

fn scram_secret(rounds: u32) -> String {
    let salt = b"0123456789abcdef";
    SaltedPassword::derive("secret", salt, rounds).unwrap().secret(salt, rounds).stored_text().to_string()
}

/// The first message a user receives.
fn first_message(port: u16, user: &str, database: &str) -> Vec<u8> {
    let mut client = Client::start(port, &[("user", user), ("database", database)]);
    let first_message = client.read().expect("an answer");
    // The md5 request ends with a random salt.
    first_message.bytes[..9.min(first_message.bytes.len())].to_vec()
}

/// CPU time of the pooler in clock ticks; hardly affected by other load on the machine.
fn processor_ticks(bouncer: &Bouncer) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", bouncer.pid().as_raw_nonzero())).unwrap();
    // The program name may contain spaces; user and system time are the 12th and 13th fields after it.
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn took(bouncer: &Bouncer, what: impl FnOnce()) -> u64 {
    let before = processor_ticks(bouncer);
    what();
    processor_ticks(bouncer) - before
}

/// Logs in with a driver; on failure returns SQLSTATE and message.
fn log_in(port: u16, user: &str, database: &str, password: &str) -> Result<(), (String, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(port).user(user).dbname(database).password(password);
        match config.connect(tokio_postgres::NoTls).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
                Err((error.code().code().to_owned(), error.message().to_owned()))
            }
        }
    })
}

#[test]
fn an_unknown_user_receives_the_same_request_and_refusal_as_a_known_one() {
    let md5 = md5::stored("known", "secret").to_string();
    let scram = scram_secret(FEW);
    for auth_type in ["plain", "md5", "scram-sha-256"] {
        for stored in ["secret", &md5, &scram] {
            let bouncer = start(auth_type, stored, FEW);
            for database in ["app", "nowhere", "pgbouncer"] {
                let what = format!("{auth_type}, {stored}, {database}");
                let seen = |user: &str| {
                    let (code, text) = log_in(bouncer.port, user, database, "wrong").unwrap_err();
                    (first_message(bouncer.port, user, database), code, text.replace(user, "USER"))
                };
                let known = seen("known");
                assert_eq!(known.1, "28P01", "{what}");
                assert_eq!(known, seen("ghost"), "{what}");
            }
        }
    }
}

#[test]
fn an_answer_costs_the_same_for_known_and_unknown_users() {
    let compare = |bouncer: &Bouncer, what: &str| {
        for database in ["app", "pgbouncer"] {
            let refused = |user: &str| log_in(bouncer.port, user, database, "wrong").unwrap_err().0;
            let refused_each_time = |user: &str| (0..LOGINS).all(|_| refused(user) == "28P01");
            let user = |user: &str| took(bouncer, || assert!(refused_each_time(user)));
            let (known, ghost) = (user("known"), user("ghost"));
            assert!(known > 4, "{what}, {database}: {known} ticks are too few to compare");
            assert!(ghost > known / 3 && known > ghost / 3, "{what}, {database}: {known} and {ghost} ticks");
        }
    };
    compare(&start("plain", &scram_secret(MANY), MANY), "plain");
    let scram = start("scram-sha-256", "secret", MANY);
    compare(&scram, "scram");
    // The keys of the password are in memory from now on.
    log_in(scram.port, "known", "app", "secret").unwrap();
    let again = took(&scram, || {
        (0..LOGINS).for_each(|_| log_in(scram.port, "known", "app", "secret").unwrap());
    });
    assert!(again <= 10, "{again} ticks");
    compare(&scram, "scram with known keys");
}
