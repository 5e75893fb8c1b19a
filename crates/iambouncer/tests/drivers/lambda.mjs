// A Lambda function written for RDS Proxy: the AWS signer makes a token, and the driver sends it as the
// password over TLS. It gets host names from its environment and does not depend on iambouncer.
//
// DB_HOST is the host the token is signed for. Most code uses one name for both, since tokens for a proxy are
// signed for the proxy.

import { readFileSync } from "node:fs";
import { Signer } from "@aws-sdk/rds-signer";
import pg from "pg";

const { PROXY_HOST, PROXY_PORT, DB_USER, DB_NAME, DB_CA_FILE, AWS_REGION } = process.env;
const { DB_HOST = PROXY_HOST, DB_PORT = PROXY_PORT } = process.env;

const signer = new Signer({
  hostname: DB_HOST,
  port: Number(DB_PORT),
  username: DB_USER,
  region: AWS_REGION,
});

// Kept between invocations for as long as Lambda keeps this process.
let connection;

async function connect() {
  const client = new pg.Client({
    host: PROXY_HOST,
    port: Number(PROXY_PORT),
    user: DB_USER,
    password: await signer.getAuthToken(),
    database: DB_NAME,
    ssl: { ca: readFileSync(DB_CA_FILE, "utf8") },
  });
  client.on("error", () => (connection = undefined));
  await client.connect();
  return client;
}

export async function handler({ item, quantity }) {
  const cold = connection === undefined;
  connection ??= await connect();
  const { rows: [who] } = await connection.query("SELECT current_user AS name, $1::int * 2 AS twice", [quantity]);
  await connection.query("BEGIN");
  try {
    await connection.query("INSERT INTO orders (item, quantity) VALUES ($1, $2)", [item, quantity]);
    const { rows: [sum] } = await connection.query(
      "SELECT sum(quantity)::int AS quantity FROM orders WHERE item = $1",
      [item],
    );
    await connection.query("COMMIT");
    return { user: who.name, twice: who.twice, ordered: sum.quantity, cold };
  } catch (error) {
    await connection.query("ROLLBACK");
    throw error;
  }
}
