//! The columns of the console's tables: names, order and types, which tools of PgBouncer rely on.

use crate::support::{Bouncer, postgres};

/// A letter for each type, as in PgBouncer's sources: `s` text, `i` int4, `q` int8, `N` numeric.
fn letter(oid: u32) -> char {
    match oid {
        25 => 's',
        23 => 'i',
        20 => 'q',
        1700 => 'N',
        other => panic!("type {other}"),
    }
}

const CONNECTION: &str = "type user database replication state addr port local_addr local_port connect_time \
    request_time wait wait_us close_needed ptr link remote_pid tls application_name prepared_statements id";
const POSITIONS: &str = "recv_pos pkt_pos pkt_remain send_pos send_remain pkt_avail send_avail";

/// PgBouncer's tables: command, types, names.
fn tables() -> Vec<(&'static str, String, String)> {
    let connection = "ssssssisissiiississii";
    let counters = "server_assignment_count xact_count query_count";
    let row = |command, types: &str, names: &str| (command, types.to_owned(), names.to_owned());
    vec![
        row("VERSION", "s", "version"),
        row("CONFIG", "ssss", "key value default changeable"),
        row("STATE", "ss", "key value"),
        row("LISTS", "si", "list items"),
        row("MEM", "siiii", "name size used free memtotal"),
        row("DNS_HOSTS", "sqs", "hostname ttl addrs"),
        row("DNS_ZONES", "sqi", "zonename serial count"),
        row("PEERS", "isii", "peer_id host port pool_size"),
        row(
            "PEER_POOLS",
            "iiiii",
            "peer_id cl_active_cancel_req cl_waiting_cancel_req sv_active_cancel sv_login",
        ),
        row(
            "DATABASES",
            "ssissiiiissiiiiii",
            "name host port database force_user pool_size min_pool_size reserve_pool_size server_lifetime \
             pool_mode load_balance_hosts max_connections current_connections max_client_connections \
             current_client_connections paused disabled",
        ),
        row(
            "USERS",
            "ssssiiii",
            "name pool_size reserve_pool_size pool_mode max_user_connections current_connections \
             max_user_client_connections current_client_connections",
        ),
        row(
            "POOLS",
            "ssiiiiiiiiiiiiiss",
            "database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active \
             sv_active_cancel sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us pool_mode \
             load_balance_hosts",
        ),
        // The last two columns are the pooler's own.
        row("CLIENTS", &format!("{connection}ss"), &format!("{CONNECTION} pins settings")),
        row("SERVERS", connection, CONNECTION),
        row("SOCKETS", &format!("{connection}iiiiiii"), &format!("{CONNECTION} {POSITIONS}")),
        row("ACTIVE_SOCKETS", &format!("{connection}iiiiiii"), &format!("{CONNECTION} {POSITIONS}")),
        row(
            "STATS",
            &format!("s{}", "N".repeat(24)),
            "database total_server_assignment_count total_xact_count total_query_count total_received \
             total_sent total_xact_time total_query_time total_wait_time total_client_parse_count \
             total_server_parse_count total_bind_count total_client_login_count avg_server_assignment_count \
             avg_xact_count avg_query_count avg_recv avg_sent avg_xact_time avg_query_time avg_wait_time \
             avg_client_parse_count avg_server_parse_count avg_bind_count avg_client_login_count",
        ),
        row(
            "STATS_TOTALS",
            &format!("s{}", "N".repeat(12)),
            &format!(
                "database {counters} bytes_received bytes_sent xact_time query_time wait_time \
                 client_parse_count server_parse_count bind_count client_login_count"
            ),
        ),
        row(
            "STATS_AVERAGES",
            &format!("s{}", "N".repeat(12)),
            &format!(
                "database {counters} bytes_received bytes_sent xact_time query_time wait_time \
                 avg_client_parse_count avg_server_parse_count avg_bind_count avg_client_login_count"
            ),
        ),
        row("TOTALS", "sN", "name value"),
        row("CLIENT_ENCODING", "s", "client_encoding"),
        row("DEFAULT_TRANSACTION_ISOLATION", "s", "default_transaction_isolation"),
        row("STANDARD_CONFORMING_STRINGS", "s", "standard_conforming_strings"),
        row("DATESTYLE", "s", "datestyle"),
        row("TIMEZONE", "s", "timezone"),
        row("EXTRA_FLOAT_DIGITS", "s", "extra_float_digits"),
    ]
}

#[test]
fn every_table_has_the_columns_of_pgbouncer_in_their_order_and_types() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
    let mut console = bouncer.console();
    for (command, types, names) in tables() {
        for word in ["SHOW", "select"] {
            let answer = console.query(&format!("{word} {};", command.to_lowercase()));
            let headers = answer[0].headers();
            let given: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(given, names.split_whitespace().collect::<Vec<_>>(), "{command}");
            let letters: String = headers.iter().map(|(_, oid)| letter(*oid)).collect();
            assert_eq!(letters, types, "{command}");
            assert_eq!(answer[answer.len() - 2].command_tag(), "SHOW");
        }
    }
    let mut known: Vec<&str> = tables().iter().map(|(command, ..)| *command).collect();
    // The pooler's own; those of the API are compared with it in `api`.
    known.extend([
        "HELP",
        "SECRETS",
        "STATUS",
        "TOKENS",
        "SERVER_AUTH",
        "PROBLEMS",
        "FUNCTIONS",
        "PINS",
        "WAITING",
        "LATENCIES",
    ]);
    known.extend(["HISTORY", "WORKERS", "EVENTS", "LOGIN_FAILURES", "SETTINGS"]);
    for command in iambouncer::admin::table::COMMANDS {
        let Some(what) = command.words.strip_prefix("SHOW ") else { continue };
        assert!(known.contains(&what), "{what} is tested");
    }
}
