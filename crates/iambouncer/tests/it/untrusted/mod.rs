//! What clients send that have not logged in: names that forge log lines, connections that never log in, questions about who exists.

mod log_lines;
mod logins;
mod scarce;
mod users;
