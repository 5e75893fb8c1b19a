// The dashboard. Owns how the tables of the API are shown; it changes nothing, and inserts every value as text.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
// As in SHOW HISTORY.
const HISTORY_SECONDS = 300;
const STEP_SECONDS = 5;
const BUSY_PERCENT = 90;
const LONG_WAIT_SECONDS = 1;

const byId = (id) => document.getElementById(id);

// Texts.

function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 120) return `${value} s`;
  if (value < 7200) return `${Math.floor(value / 60)} min`;
  if (value < 172800) return `${Math.floor(value / 3600)} h`;
  return `${Math.floor(value / 86400)} d`;
}

function micros(value) {
  if (value === null || value === undefined) return "–";
  if (value < 1000) return `${value} µs`;
  if (value < 1e6) return `${(value / 1000).toPrecision(3)} ms`;
  return `${(value / 1e6).toPrecision(3)} s`;
}

function count(value) {
  return value === null || value === undefined ? "–" : Number(value).toLocaleString("en-US");
}

function bytes(value) {
  if (value === null || value === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let number = Number(value);
  let unit = 0;
  while (number >= 1000 && unit < units.length - 1) {
    number /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? number : number.toPrecision(3)} ${units[unit]}`;
}

const poolName = (row) => `${row.database}\n${row.user}`;
const waited = (row) => row.wait + row.wait_us / 1e6;
const waitText = (row) => micros(Math.round(waited(row) * 1e6));

// Drawings.

function shape(parent, name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent.append(element);
  return element;
}

// Servers in use and idle, of the size of the pool.
function drawBar(cell, row, size) {
  let svg = cell.querySelector("svg");
  if (!svg) {
    svg = shape(cell, "svg", { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none" });
    shape(svg, "rect", { class: "active", y: 0, height: 10 });
    shape(svg, "rect", { class: "idle", y: 0, height: 10 });
    shape(svg, "rect", { class: "whole", x: 0, y: 0, width: 100, height: 10 });
  }
  const [active, idle] = svg.querySelectorAll("rect");
  const part = 100 / Math.max(size, row.sv_active + row.sv_idle, 1);
  active.setAttribute("x", 0);
  active.setAttribute("width", row.sv_active * part);
  idle.setAttribute("x", row.sv_active * part);
  idle.setAttribute("width", row.sv_idle * part);
}

const histories = new Map();

function remember(row, at) {
  const name = poolName(row);
  const points = histories.get(name) ?? [];
  if (points.length === 0 || at - points.at(-1).at >= STEP_SECONDS) {
    points.push({ at, active: row.sv_active, waiting: row.cl_waiting });
  }
  while (points.length > 0 && at - points[0].at > HISTORY_SECONDS) points.shift();
  histories.set(name, points);
}

function drawSpark(cell, row) {
  let svg = cell.querySelector("svg");
  if (!svg) {
    svg = shape(cell, "svg", { class: "spark", viewBox: "0 0 300 30", preserveAspectRatio: "none" });
    shape(svg, "polyline", { class: "active" });
    shape(svg, "polyline", { class: "waiting" });
  }
  const points = histories.get(poolName(row)) ?? [];
  const now = Date.now() / 1000;
  const most = Math.max(1, ...points.map((point) => Math.max(point.active, point.waiting)));
  const line = (value) => points
    .map((point) => `${(HISTORY_SECONDS - (now - point.at)).toFixed(1)},${(28 - 26 * value(point) / most).toFixed(1)}`)
    .join(" ");
  const [active, waiting] = svg.querySelectorAll("polyline");
  active.setAttribute("points", line((point) => point.active));
  waiting.setAttribute("points", points.some((point) => point.waiting > 0) ? line((point) => point.waiting) : "");
  svg.dataset.points = points.length;
}

// Tables. A column has a title, the text of a row's cell or a function that draws it, and optionally a class.

const text = (title, value, kind) => ({ title, value, kind: kind ?? (() => "") });
const number = (title, value, kind) => ({ title, value, kind: (row) => `number ${kind ? kind(row) : ""}` });
const drawing = (title, draw) => ({ title, draw, kind: () => "" });
const when = (is, name) => (is ? name : "");

const columns = {
  pools: [
    text("Database", (row) => row.database),
    text("User", (row) => row.user),
    text("Mode", (row) => row.pool_mode),
    number("Clients", (row) => count(row.cl_active)),
    number("In use", (row) => count(row.sv_active)),
    number("Idle", (row) => count(row.sv_idle)),
    number("Logging in", (row) => count(row.sv_login)),
    number("Size", (row) => count(row.size)),
    drawing("", (cell, row) => drawBar(cell, row, row.size ?? 0)),
    number("Waiting", (row) => count(row.cl_waiting), (row) => when(row.cl_waiting > 0, "bad")),
    number("Longest wait", (row) => (row.cl_waiting > 0 ? micros(row.maxwait * 1e6 + row.maxwait_us) : "–"), (row) => when(row.maxwait >= LONG_WAIT_SECONDS, "bad")),
    drawing("Last 5 minutes", drawSpark),
  ],
  waiting: [
    text("Database", (row) => row.database),
    text("User", (row) => row.user),
    text("Client", (row) => `${row.addr}:${row.port}`),
    text("Application", (row) => row.application_name),
    number("Waits for", waitText, (row) => when(waited(row) >= LONG_WAIT_SECONDS, "bad")),
    text("Reason", (row) => row.reason, () => "nowrap"),
    text("Why", (row) => row.detail),
  ],
  databases: [
    text("Database", (row) => row.database),
    text("State", (row) => row.state, (row) => when(["disabled", "paused"].includes(row.state), "warn")),
    text("Server", (row) => row.server),
    number("Connections", (row) => row.connections),
    number("Queries", (row) => count(row.query_count)),
    number("Transactions", (row) => count(row.xact_count)),
    number("Received", (row) => bytes(row.bytes_received)),
    number("Sent", (row) => bytes(row.bytes_sent)),
    number("Queries/s", (row) => count(row.queries_per_s)),
    number("Query p50", (row) => micros(row.query_p50_us)),
    number("p99", (row) => micros(row.query_p99_us)),
    number("Wait p50", (row) => micros(row.wait_p50_us)),
    number("p99", (row) => micros(row.wait_p99_us), (row) => when(row.wait_p99_us >= LONG_WAIT_SECONDS * 1e6, "bad")),
  ],
  identities: [
    text("Endpoint", (row) => row.endpoint),
    text("User", (row) => row.user),
    text("Identity", (row) => row.arn ?? row.identity),
    text("Credentials", (row) => row.provider),
    number("Token age", (row) => seconds(row.age)),
    number("Expires in", (row) => seconds(row.left), (row) => when(Boolean(row.last_error), "bad")),
    text("Credentials until", (row) => row.credentials_until, () => "nowrap"),
    number("Refused", (row) => count(row.refusals), (row) => when(row.refusals > 0, "warn")),
    text("Last error", (row) => row.last_error, () => "bad"),
    text("Last refusal", (row) => row.refusal),
    text("Remedy", (row) => row.remedy),
  ],
  secrets: [
    text("Secret", (row) => row.secret),
    text("User", (row) => row.user),
    text("Version", (row) => row.version),
    number("Read", (row) => `${seconds(row.age)} ago`),
    number("Rotations", (row) => count(row.rotations)),
    number("Failed reads", (row) => count(row.failed_reads), (row) => when(row.failed_reads > 0, "warn")),
    text("Last error", (row) => row.last_error, () => "bad"),
  ],
  failures: [
    text("Database", (row) => row.database),
    text("User", (row) => row.user),
    text("Last", (row) => row.time, () => "nowrap"),
    text("State", (row) => (row.recovered ? `succeeds again since ${row.recovered}` : `${count(row.failures)} in a row`),
      (row) => (row.recovered ? "good" : "bad")),
    text("Cause", (row) => row.cause, () => "nowrap"),
    text("Message", (row) => row.message),
    text("Remedy", (row) => row.remedy),
  ],
  servers: [
    text("Database", (row) => row.database),
    text("User", (row) => row.user),
    text("Server", (row) => row.server),
    text("State", (row) => row.state),
    number("Age", (row) => seconds(row.age)),
    number("PID", (row) => row.remote_pid),
    text("Login", (row) => row.auth),
    text("Identity", (row) => row.identity),
    number("Token age", (row) => seconds(row.token_age)),
    number("expires in", (row) => seconds(row.token_left)),
    text("TLS", (row) => row.tls || "no"),
  ],
  workers: [
    number("Worker", (row) => row.worker),
    text("I/O", (row) => row.io_engine),
    number("Clients", (row) => count(row.clients)),
    number("Servers", (row) => count(row.servers)),
    number("Load", (row) => `${row.load_percent} %`, (row) => when(row.load_percent >= BUSY_PERCENT, "bad")),
    drawing("", (cell, row) => drawBar(cell, { sv_active: row.load_percent, sv_idle: 0 }, 100)),
    number("CPU time", (row) => micros(row.cpu_time)),
  ],
  events: [
    text("Time", (row) => row.time, () => "nowrap"),
    text("Event", (row) => row.event, (row) => `nowrap ${{ error: "bad", warn: "warn" }[row.level] ?? ""}`),
    text("Database", (row) => row.database),
    text("User", (row) => row.user),
    text("Message", (row) => row.message),
    text("Remedy", (row) => row.hint),
    number("Times", (row) => count(row.count)),
  ],
  settings: [
    text("Setting", (row) => row.key, () => "nowrap"),
    text("Value", (row) => row.value),
    text("Origin", (row) => row.origin),
    text("Default", (row) => row.default),
    text("RELOAD", (row) => (row.changeable === "yes" ? "applies" : "restart needed")),
    text("Description", (row) => row.description),
  ],
};

function tableOf(name) {
  const section = document.querySelector(`[data-table="${name}"]`);
  let body = section.querySelector("tbody");
  if (!body) {
    const table = document.createElement("table");
    const head = table.createTHead().insertRow();
    for (const column of columns[name]) {
      const cell = document.createElement("th");
      cell.textContent = column.title;
      cell.className = column.kind({}).includes("number") ? "number" : "";
      head.append(cell);
    }
    body = table.createTBody();
    const empty = document.createElement("p");
    empty.className = "empty";
    empty.textContent = "none";
    section.append(table, empty);
  }
  return { section, body };
}

// Changes only what differs, so that a selection on the page survives an update.
function fill(name, rows, total) {
  const { section, body } = tableOf(name);
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((row, index) => {
    const line = body.rows[index] ?? body.insertRow();
    columns[name].forEach((column, place) => {
      const cell = line.cells[place] ?? line.insertCell();
      const kind = column.kind(row).trim();
      if (cell.className !== kind) cell.className = kind;
      if (column.draw) return column.draw(cell, row);
      const value = String(column.value(row) ?? "");
      if (cell.textContent !== value) cell.textContent = value;
    });
  });
  section.querySelector("table").classList.toggle("hidden", rows.length === 0);
  const note = section.querySelector(".empty");
  note.classList.toggle("hidden", rows.length > 0 && total <= rows.length);
  note.textContent = rows.length === 0 ? "none" : `${count(total - rows.length)} more are in the API`;
}

// Joins.

const keyed = (rows, key) => new Map(rows.map((row) => [key(row), row]));

function databases(update) {
  const rates = keyed(update.latencies.rows, (row) => row.database);
  const lines = keyed(update.databases.rows, (row) => row.name);
  return update.stats_totals.rows.map((totals) => {
    const line = lines.get(totals.database);
    const state = !line ? "–" : line.disabled ? "disabled" : line.paused ? "paused" : "enabled";
    const host = line?.host ? `${line.host}:${line.port}` : "";
    const limit = line?.max_connections ? ` of ${line.max_connections}` : "";
    const connections = line ? `${line.current_connections}${limit}` : "";
    return { ...rates.get(totals.database), ...totals, state, server: host, connections };
  });
}

// The last refusal of a token is that of a pool of its endpoint and user.
function identities(update) {
  return update.tokens.rows.map((token) => {
    const failures = update.login_failures.rows.filter((row) => row.endpoint === token.endpoint && row.user === token.user);
    const last = failures.sort((a, b) => (a.time < b.time ? 1 : -1))[0];
    return { ...token, refusal: last ? `${last.time} ${last.cause}: ${last.message}` : "", remedy: last?.remedy ?? "" };
  });
}

function pools(update) {
  const sizes = keyed(update.databases.rows, (row) => row.name);
  return update.pools.rows.map((row) => ({ ...row, size: sizes.get(row.database)?.pool_size }));
}

// Problems.

function showProblems(found) {
  const section = byId("problems");
  const list = section.querySelector("ul");
  const all = found.length > 0 ? found : [{ severity: "none", problem: "No problems." }];
  section.classList.toggle("calm", found.length === 0);
  while (list.children.length > all.length) list.lastChild.remove();
  all.forEach(({ severity, problem }, index) => {
    const item = list.children[index] ?? list.appendChild(document.createElement("li"));
    item.className = { error: "bad", warning: "warn", none: "good" }[severity];
    if (item.textContent !== problem) item.textContent = problem;
  });
}

// Updates.

let settingsOf;

function show(update) {
  const status = new Map(update.status.rows.map((row) => [row.key, row.value]));
  const now = Date.now() / 1000;
  update.pools.rows.forEach((row) => remember(row, now));
  const shown = new Set(update.pools.rows.map(poolName));
  for (const name of histories.keys()) if (!shown.has(name)) histories.delete(name);
  // Of all rows, also those that are not shown.
  const { clients, waiting, servers, queries_per_s: queries } = update.sums;
  byId("state").textContent = String(status.get("state")).replaceAll("_", " ");
  byId("ready").textContent = status.get("ready");
  byId("uptime").textContent = seconds(Number(status.get("uptime_seconds")));
  byId("version").textContent = status.get("version");
  byId("clients").textContent = count(clients);
  byId("waiting-count").textContent = count(waiting);
  byId("waiting-count").className = when(waiting > 0, "bad");
  byId("servers-count").textContent = count(servers);
  byId("queries").textContent = count(queries);
  document.title = waiting > 0 ? `(${waiting} waiting) iambouncer` : "iambouncer";
  fill("pools", pools(update), update.pools.total);
  fill("waiting", update.waiting.rows, update.waiting.total);
  fill("databases", databases(update), update.stats_totals.total);
  fill("identities", identities(update), update.tokens.total);
  fill("secrets", update.secrets.rows, update.secrets.total);
  fill("failures", update.login_failures.rows, update.login_failures.total);
  fill("servers", update.server_auth.rows, update.server_auth.total);
  fill("workers", update.workers.rows, update.workers.total);
  fill("events", update.events.rows, update.events.total);
  showProblems(update.problems.rows);
  // Settings change only with an event.
  const changed = update.events.rows.find((row) => ["reloaded", "setting_changed", "started"].includes(row.event));
  const version = changed ? `${changed.time} ${changed.count}` : "";
  if (settingsOf !== version) {
    settingsOf = version;
    loadSettings();
  }
}

async function table(name) {
  const answer = await fetch(`api/v1/${name}?limit=100000`);
  if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
  return answer.json();
}

let settings = [];

async function loadSettings() {
  try {
    settings = (await table("settings")).rows;
    showSettings();
  } catch (error) {
    settingsOf = undefined;
  }
}

function showSettings() {
  const words = byId("filter").value.toLowerCase();
  const all = byId("all-settings").checked;
  const rows = settings.filter((row) => (all || row.origin !== "default") && `${row.key} ${row.value} ${row.description}`.toLowerCase().includes(words));
  fill("settings", rows, rows.length);
}

async function loadHistory() {
  const now = Date.now() / 1000;
  for (const row of (await table("history")).rows) {
    const points = histories.get(poolName(row)) ?? [];
    points.push({ at: now - row.age, active: row.sv_active, waiting: row.cl_waiting });
    histories.set(poolName(row), points);
  }
}

function connect() {
  const updates = new EventSource("api/v1/stream");
  const link = byId("link");
  const report = (message, kind) => {
    link.textContent = message;
    link.className = kind;
  };
  updates.addEventListener("update", (event) => {
    show(JSON.parse(event.data));
    report("live", "good");
  });
  updates.addEventListener("trouble", (event) => report(JSON.parse(event.data).error, "bad"));
  updates.addEventListener("error", () => {
    report("no connection, trying again", "bad");
    // After an answer that is not a stream, such as 503, the browser does not try again by itself.
    if (updates.readyState === EventSource.CLOSED) setTimeout(connect, 2000);
  });
}

byId("filter").addEventListener("input", showSettings);
byId("all-settings").addEventListener("change", showSettings);
loadHistory().catch(() => {}).finally(connect);
