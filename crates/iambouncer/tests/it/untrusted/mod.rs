//! Input of clients that have not logged in: names that would forge log lines, connections that never log in,
//! probing for existing users.

mod log_lines;
mod logins;
mod scarce;
mod users;
