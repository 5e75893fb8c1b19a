// Plays Lambda's part: calls the handler once per event argument, all in one process, and prints the results.

import { handler } from "./lambda.mjs";

for (const event of process.argv.slice(2)) {
  console.log(JSON.stringify(await handler(JSON.parse(event))));
}
// The handler keeps its connection open.
process.exit();
