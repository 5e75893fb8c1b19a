//! Several workers in one process: what clients, the console and PostgreSQL see of them, which is nothing.

mod commands;
mod ending;
mod limits;
mod moving;
mod random;
mod sessions;
mod sums;
