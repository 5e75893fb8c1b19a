// The `@aws-sdk/rds-signer` side of `bench --tokens`. Owns minting on request and measuring its time; never decides
// how often. Requests and responses as in boto3.py.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { Signer } from "@aws-sdk/rds-signer";

// The working directory contains node_modules.
const description = "node_modules/@aws-sdk/rds-signer/package.json";
const versions = () => `rds-signer ${JSON.parse(readFileSync(description, "utf8")).version}, Node.js ${process.version}`;

const signerOf = ([hostname, port, username, region], [accessKeyId, secretAccessKey, sessionToken]) =>
  new Signer({
    hostname,
    port: Number(port),
    username,
    region,
    credentials: { accessKeyId, secretAccessKey, sessionToken: sessionToken || undefined },
  });

const mint = async (signer, count) => {
  let token;
  const start = process.hrtime.bigint();
  for (let number = 0; number < count; number += 1) token = await signer.getAuthToken();
  return `${process.hrtime.bigint() - start}\t${token}`;
};

let target;
const signers = [];
const answer = async ([word, ...fields]) => {
  if (word === "target") {
    target = fields;
    return versions();
  }
  if (word === "key") return signers.push(signerOf(target, fields));
  return mint(signers[Number(fields[0])], Number(fields[1]));
};

for await (const line of createInterface({ input: process.stdin })) {
  console.log(await answer(line.split("\t")));
}
