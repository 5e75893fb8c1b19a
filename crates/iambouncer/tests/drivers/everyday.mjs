// Everyday use of a pooler by Node applications: concurrent queries, named prepared statements, transactions,
// errors, large results. The PG* variables give the server. Prints one line if every check passed.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import pg from "pg";

const pool = new pg.Pool({ max: 4, ssl: { ca: readFileSync(process.env.PGSSLROOTCERT, "utf8") } });

async function preparedStatementsByName() {
  const twice = (number) => pool.query({ name: "twice", text: "SELECT $1::int * 2 AS twice", values: [number] });
  const numbers = [...Array(200).keys()];
  const answers = await Promise.all(numbers.map(twice));
  assert.deepEqual(answers.map(({ rows }) => rows[0].twice), numbers.map((number) => number * 2));
}

async function anErrorLeavesTheConnectionUsable() {
  const client = await pool.connect();
  try {
    await client.query("BEGIN");
    await client.query("CREATE TEMPORARY TABLE notes (note jsonb) ON COMMIT DROP");
    await client.query("INSERT INTO notes VALUES ($1)", [{ text: "ä", list: [1, null] }]);
    const { rows } = await client.query("SELECT note FROM notes");
    assert.deepEqual(rows, [{ note: { text: "ä", list: [1, null] } }]);
    await assert.rejects(client.query("SELECT $1::int / 0", [1]), { code: "22012" });
    await assert.rejects(client.query("SELECT 1"), { code: "25P02" });
    await client.query("ROLLBACK");
    assert.equal((await client.query("SELECT to_regclass('notes') AS gone")).rows[0].gone, null);
  } finally {
    client.release();
  }
}

async function largeResults() {
  const text = "SELECT n, repeat('x', 1000) AS filling FROM generate_series(1, $1) AS n";
  const { rows } = await pool.query({ text, values: [10_000], rowMode: "array" });
  assert.equal(rows.length, 10_000);
  assert(rows.every(([n, filling], at) => n === at + 1 && filling.length === 1000));
}

async function severalStatementsInOneString() {
  const results = await pool.query("SELECT 1 AS a; SELECT 'b' AS b");
  assert.deepEqual(results.map(({ rows }) => rows[0]), [{ a: 1 }, { b: "b" }]);
}

await preparedStatementsByName();
await anErrorLeavesTheConnectionUsable();
await largeResults();
await severalStatementsInOneString();
await pool.end();
console.log("all right");
