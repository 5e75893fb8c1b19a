//! Every client receives its own answers and no other client's, whatever it or the server sends.

mod changed_results;
mod combinations;
mod copy_messages;
mod copy_sync;
mod generator;
mod left_open_transactions;
mod out_of_step;
mod parameters;
mod pipelines;
mod stale_statements;
mod unnamed;
