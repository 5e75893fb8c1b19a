//! What sqlx's tests expect of a crate that is not published: connections to the database in `DATABASE_URL`.

use anyhow::Result;
use sqlx::pool::PoolOptions;
use sqlx::{Connection, Database, Pool};
use std::env;

/// There is nothing to set up: `DATABASE_URL` is in the environment.
pub fn setup_if_needed() {}

/// A connection.
pub async fn new<DB: Database>() -> Result<DB::Connection> {
    Ok(DB::Connection::connect(&env::var("DATABASE_URL")?).await?)
}

/// A pool of a few connections.
pub async fn pool<DB: Database>() -> Result<Pool<DB>> {
    Ok(PoolOptions::new().min_connections(0).max_connections(5).connect(&env::var("DATABASE_URL")?).await?)
}
