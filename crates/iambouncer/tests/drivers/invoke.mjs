// Stands for Lambda: calls the handler for each event it is given, in one process, and prints what it returns.

import { handler } from "./lambda.mjs";

for (const event of process.argv.slice(2)) {
  console.log(JSON.stringify(await handler(JSON.parse(event))));
}
// The handler keeps its connection.
process.exit();
