//! Startup parameters and `options` are accepted and follow the client.

use super::{with_one_server, with_several_servers};
use crate::support::Bouncer;
use crate::support::raw::Client;

fn client(bouncer: &Bouncer, more: &[(&str, &str)]) -> Client {
    let parameters = [&[("user", "app"), ("database", "app")], more].concat();
    Client::log_in_with(bouncer.port, &parameters)
}

#[test]
fn every_startup_parameter_follows() {
    for bouncer in [with_one_server(), with_several_servers()] {
        let mut a = client(
            &bouncer,
            &[("statement_timeout", "5000"), ("extra_float_digits", "2"), ("app.tenant", "a")],
        );
        let mut b = client(&bouncer, &[("options", "-c work_mem=7MB -c app.tenant=b\\ c --lock-timeout=3s")]);
        for _ in 0..3 {
            assert_eq!(a.value("SHOW statement_timeout"), "5s");
            assert_eq!(a.value("SHOW extra_float_digits"), "2");
            assert_eq!(b.value("SHOW work_mem"), "7MB");
            assert_eq!(b.value("SHOW lock_timeout"), "3s");
            assert_eq!(b.value("SHOW statement_timeout"), "0");
            assert_eq!(b.value("SHOW app.tenant"), "b c");
            assert_eq!(a.value("SHOW app.tenant"), "a");
            assert_eq!(a.value("SHOW work_mem"), "4MB");
        }
    }
}

#[test]
fn a_parameter_that_the_server_refuses_is_an_error_before_the_first_query() {
    let bouncer = with_one_server();
    let mut refused = client(&bouncer, &[("work_mem", "very much")]);
    refused.send_query("SELECT 1");
    let end = refused.until_end();
    assert_eq!(super::code(&end), "22023");
    assert!(!end.iter().any(|message| message.tag == b'D'));
}
