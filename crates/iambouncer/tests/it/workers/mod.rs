//! Several workers in one process behave like one for clients, the console and PostgreSQL.

mod clients;
mod commands;
mod ending;
mod limits;
mod moving;
mod random;
mod sessions;
mod sums;
