//! Orders, one for each line of the input, through a pool of sqlx.

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use std::time::Duration;

async fn place_order(pool: &PgPool, item: &str) -> Result<i64, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    sqlx::query("INSERT INTO orders (item) VALUES ($1)").bind(item).execute(&mut *transaction).await?;
    let count = sqlx::query_scalar("SELECT count(*) FROM orders WHERE item = $1")
        .bind(item)
        .fetch_one(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(count)
}

/// Runs 50 different statements, of which the driver keeps 10.
async fn statements(pool: &PgPool) -> Result<i32, sqlx::Error> {
    let mut sum = 0;
    for number in 0..50 {
        let query = sqlx::AssertSqlSafe(format!("SELECT $1::int + {number}"));
        sum += sqlx::query_scalar::<_, i32>(query).bind(number).fetch_one(pool).await?;
    }
    Ok(sum)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options: PgConnectOptions = std::env::var("DATABASE_URL")?.parse()?;
    let pool = PgPoolOptions::new()
        // Connections to the pooler, for each process: a few, since the pooler is the pool of servers.
        .max_connections(5)
        .acquire_timeout(Duration::from_secs(10))
        // A connection that the pooler has closed is replaced before it is used; this is the default.
        .test_before_acquire(true)
        .connect_with(options.statement_cache_capacity(10))
        .await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS orders (id bigserial PRIMARY KEY, item text NOT NULL)")
        .execute(&pool)
        .await?;
    for line in std::io::stdin().lines() {
        let item = line?;
        println!("{item}: {} ordered", place_order(&pool, &item).await?);
    }
    println!("50 statements: {}", statements(&pool).await?);
    Ok(())
}
