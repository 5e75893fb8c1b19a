// Everyday use of node-postgres, with its defaults; the PG* variables give the server. Prints the results as one line.
// tests/it/everyday describes the steps, the arguments and the results.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import pg from "pg";

const CLIENTS = 4;
const EXECUTIONS = 20;
const BATCH = [...Array(100).keys()].map((number) => number + 100);
const [LARGE_ROWS, LARGE_WIDTH] = [10_000, 1000];
const CANCEL_INTERVAL_MS = 50;
const [table, meeting] = process.argv.slice(2);

const authority = process.env.PGSSLROOTCERT;
const options = authority ? { ssl: { ca: readFileSync(authority, "utf8") } } : {};

/** Resolves when all clients have called it. */
let arrived = 0;
let open;
const allArrived = new Promise((resolve) => (open = resolve));
const waitForTheOthers = async () => {
  arrived += 1;
  if (meeting !== "together" || arrived === CLIENTS) open();
  await allArrived;
};

async function connect(more = {}) {
  const client = new pg.Client({ ...options, ...more });
  await client.connect();
  return client;
}

async function prepared(client, number, servers) {
  const text = `SELECT pg_backend_pid() AS server, $1::int + ${number} AS sum`;
  let total = 0;
  for (let value = 0; value < EXECUTIONS; value += 1) {
    const { rows } = await client.query({ name: "sum", text, values: [value] });
    servers.add(rows[0].server);
    total += rows[0].sum;
  }
  return total;
}

async function types(client) {
  const text = `SELECT $1::int, $2::bool, $3::bigint, $4::text, $5::bytea, $6::int[], 1.50::numeric,
    '2024-02-29 12:34:56+00'::timestamptz, 2.5::float8, '{"a": [1, null]}'::jsonb`;
  const values = [null, true, "9007199254740993", "Grüße €", Buffer.from("00ff", "hex"), [1, null, 3]];
  const { rows } = await client.query({ text, values, rowMode: "array" });
  return rows[0].map((field) => {
    if (Buffer.isBuffer(field)) return field.toString("hex");
    return field instanceof Date ? field.getTime() / 1000 : field;
  });
}

async function transactions(client, number) {
  const insert = `INSERT INTO ${table} VALUES ($1, $2)`;
  for (const [value, end] of [[1, "COMMIT"], [2, "ROLLBACK"]]) {
    await client.query("BEGIN");
    await client.query(insert, [number, value]);
    await client.query(end);
  }
  const { rows } = await client.query(`SELECT number FROM ${table} WHERE client = $1 AND number < 10`, [number]);
  return rows.map((row) => row.number);
}

const failing = (client, ...query) => client.query(...query).then(() => null, (error) => error.code);

async function failures(client) {
  await client.query("BEGIN");
  const states = [await failing(client, "SELECT 1 / 0"), await failing(client, "SELECT 1")];
  await client.query("ROLLBACK");
  const quotient = { name: "quotient", text: "SELECT 1 / $1::int AS quotient" };
  const { rows } = await client.query({ ...quotient, values: [1] });
  assert.deepEqual(rows, [{ quotient: 1 }]);
  return [...states, await failing(client, { ...quotient, values: [0] })];
}

async function severalStatementsInOneString(client) {
  const results = await client.query("SELECT 1 AS a; SELECT 'b' AS b");
  assert.deepEqual(results.map(({ rows }) => rows[0]), [{ a: 1 }, { b: "b" }]);
}

async function jsonParameters(client) {
  await client.query("BEGIN");
  await client.query("CREATE TEMPORARY TABLE notes (note jsonb) ON COMMIT DROP");
  await client.query("INSERT INTO notes VALUES ($1)", [{ text: "ä", list: [1, null] }]);
  const { rows } = await client.query("SELECT note FROM notes");
  assert.deepEqual(rows, [{ note: { text: "ä", list: [1, null] } }]);
  await client.query("ROLLBACK");
  assert.equal((await client.query("SELECT to_regclass('notes') AS gone")).rows[0].gone, null);
}

async function large(client) {
  const text = `SELECT n, repeat('x', ${LARGE_WIDTH}) FROM generate_series(1, $1) AS n`;
  const { rows } = await client.query({ text, values: [LARGE_ROWS], rowMode: "array" });
  assert(rows.every(([n], at) => n === at + 1));
  return [rows.length, rows.reduce((total, [, filling]) => total + filling.length, 0)];
}

/** Resolves when the request has been sent to the server: then its connection is closed. */
const cancel = (client, query) =>
  new Promise((resolve) => {
    const canceller = new pg.Client(options);
    canceller.connection.once("end", resolve);
    canceller.cancel(client, query);
  });

/** Cancels until the query ends: a request that arrives before the query does nothing. */
async function cancelled(client) {
  const query = new pg.Query("SELECT pg_sleep(60)");
  let state;
  query.on("error", (error) => (state = error.code));
  query.on("end", () => (state = null));
  client.query(query);
  while (state === undefined) {
    await setTimeout(CANCEL_INTERVAL_MS);
    if (state === undefined) await cancel(client, query);
  }
  return state === "57014";
}

/** With `pipeline`, the driver sends queries before it has the answers of those before. */
async function batch(client, number) {
  const insert = { name: "insert", text: `INSERT INTO ${table} VALUES ($1, $2)` };
  const answers = await Promise.all(BATCH.map((value) => client.query({ ...insert, values: [number, value] })));
  const outcomes = await Promise.allSettled(["SELECT 1", "SELECT 1 / 0", "SELECT 2"].map((text) => client.query(text)));
  assert.deepEqual(outcomes.map(({ status }) => status), ["fulfilled", "rejected", "fulfilled"]);
  return answers.reduce((total, { rowCount }) => total + rowCount, 0);
}

async function results(number) {
  const servers = new Set();
  let client = await connect();
  await waitForTheOthers();
  const { rows } = await client.query({ text: "SELECT 1, 'one'", rowMode: "array" });
  const steps = { simple: rows[0], prepared: await prepared(client, number, servers) };
  steps.types = await types(client);
  steps.transactions = await transactions(client, number);
  steps.errors = await failures(client);
  await severalStatementsInOneString(client);
  await jsonParameters(client);
  steps.large = await large(client);
  steps.cancelled = await cancelled(client);
  steps["after cancel"] = (await client.query("SELECT 4 AS four")).rows[0].four;
  await client.end();
  client = await connect({ pipeline: true });
  steps.reconnected = await prepared(client, number, servers);
  steps.batch = await batch(client, number);
  await client.end();
  return { ...steps, servers: [...servers] };
}

async function concurrentQueriesOfAPool() {
  const pool = new pg.Pool({ max: CLIENTS, ...options });
  const twice = (number) => pool.query({ name: "twice", text: "SELECT $1::int * 2 AS twice", values: [number] });
  const numbers = [...Array(200).keys()];
  const answers = await Promise.all(numbers.map(twice));
  assert.deepEqual(answers.map(({ rows }) => rows[0].twice), numbers.map((number) => number * 2));
  await pool.end();
}

const clients = await Promise.all([...Array(CLIENTS).keys()].map(results));
// In session pooling, more clients than servers would wait for those that are idle in the pool.
if (meeting === "together") await concurrentQueriesOfAPool();
console.log(JSON.stringify({ clients }));
