"use strict";

// The live page: reads the JSON API and the stream of events of the study that is shown; keeps nothing but the token
// of this tab. Every text of a study is set as text, never as markup.

const LIST_MS = 5000; // between two looks at all studies
const CURVES_MS = 2000; // between two looks at the curves of running trials
const TABLE_MS = 20000; // between two tables of a study that runs
const NUM_LINES = 8; // of a chart, the latest trials
const LOSSES = [["contrastive_loss", "Contrastive loss"], ["instruction_loss", "Instruction loss"]];
const COUNTED = 1000; // trials of the table

const part = (id) => document.getElementById(id);
let shown = null; // the study whose page is open, see `Study`

function element(name, text, attributes = {}) {
  const node = document.createElement(name);
  if (text !== undefined && text !== null) node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

function line(...cells) {
  const row = element("tr");
  row.append(...cells.map((cell, index) => {
    if (cell instanceof HTMLTableCellElement) return cell;
    return index ? element("td", cell) : element("th", cell, { scope: "row" });
  }));
  return row;
}

const words = (text, kind = "") => element("td", text, { class: `text ${kind}` });
const state = (name) => element("span", name, { class: `state ${name}` });

function holding(...nodes) {
  const cell = words();
  cell.append(...nodes);
  return cell;
}

const points = (value) => (value === null || value === undefined ? "" : signed(100 * value));
function signed(value) {
  const text = Math.abs(value).toFixed(1);
  return text === "0.0" ? text : (value > 0 ? "+" : "\u2212") + text;
}
const number = (value, digits = 4) => (value === null || value === undefined ? "" : Number(value).toPrecision(digits));
function clock(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const whole = Math.round(seconds), hours = Math.floor(whole / 3600), rest = String(whole % 60).padStart(2, "0");
  const minutes = Math.floor((whole % 3600) / 60);
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const expected = (status) => Math.max(status.expected || 0, status.trials);

// The API

const token = () => sessionStorage.getItem("afp-token");

async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(token() ? { Authorization: `Bearer ${token()}` } : {}) };
  const answer = await fetch(`/v1${path}`, { ...options, headers, cache: "no-store" });
  if (answer.status === 401) {
    part("access").hidden = false;
    part("access-note").textContent = token() ? "this token is unknown, expired or revoked" : "a token is needed to read";
  }
  return answer;
}

async function read(path) {
  for (;;) {
    const answer = await ask(path);
    if (answer.status === 429 || answer.status === 503) {
      await sleep(1000 * Number(answer.headers.get("Retry-After") || 2));
      continue;
    }
    const content = await answer.json();
    if (!answer.ok) throw new Error(content.detail || content.title);
    return content;
  }
}

async function* events(name, signal) {
  let position = 0;
  while (!signal.aborted) {
    try {
      const headers = position ? { "Last-Event-ID": String(position) } : {};
      const answer = await ask(`/studies/${name}/events`, { headers, signal });
      if (!answer.ok) throw new Error(`the events cannot be followed (${answer.status})`);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ""; ;) {
        const { value, done } = await reader.read();
        if (done) break;
        const blocks = (rest + value).split("\n\n");
        rest = blocks.pop();
        for (const block of blocks) {
          const fields = Object.fromEntries(block.split("\n").map((text) => text.split(/: (.*)/s)));
          if (!fields.event) continue;
          if (fields.id) position = Number(fields.id);
          yield { kind: fields.event, data: JSON.parse(fields.data) };
          if (fields.event === "end" || fields.event === "problem") return;
        }
      }
    } catch (error) {
      if (signal.aborted) return;
      tell(`${error.message || error}; trying again`);
    }
    await sleep(2000);
  }
}

function tell(text) {
  if (part("news").textContent !== text) part("news").textContent = text;
}

// All studies

function listed(status) {
  const link = element("a", status.name, { href: `#${status.name}` });
  const name = element("th", undefined, { scope: "row" });
  name.append(link);
  const total = expected(status), done = status.counts.DONE;
  const bar = element("progress", undefined, { max: Math.max(total, 1), value: done, "aria-label": `${status.name}: trials done` });
  const best = status.best_arm === null ? "" : `${status.best_arm}  ${number(status.best_objective)}`;
  const report = token() ? words("") : holding(element("a", "report", { href: `/v1/studies/${status.name}/report`, "aria-label": `report of ${status.name}` }));
  const failed = element("td", status.counts.FAILED || "", { class: "bad" });
  return line(name, holding(state(status.state)), holding(bar, ` ${done} of ${total}`), failed, words(best), status.gpu_hours.toFixed(2), report);
}

async function showList() {
  const found = await read("/studies");
  const key = JSON.stringify(found.map((status) => [status.name, status.state, status.counts, status.expected, status.best_objective]));
  if (part("studies").dataset.key !== key) { // rows that stay are left alone: a link keeps its focus
    part("studies").dataset.key = key;
    const focused = document.activeElement?.getAttribute("href");
    part("studies").replaceChildren(...found.map(listed));
    if (focused) part("studies").querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  }
  part("none").hidden = found.length > 0;
  if (token()) part("access").hidden = true;
}

async function watchList() {
  for (;;) {
    if (shown === null && !document.hidden) {
      try {
        await showList();
      } catch (error) {
        tell(error.message);
      }
    }
    await sleep(LIST_MS);
  }
}

// One study

class Study {
  constructor(name) {
    this.name = name;
    this.stop = new AbortController();
    this.status = null;
    this.curves = new Map(); // by id, of the trials that have trained
    this.settled = new Set(); // ids whose curve grows no more
    this.tableAt = -Infinity;
    this.tableOf = "";
    this.colours = new Map();
  }

  async follow() {
    this.keepCurves();
    for await (const { kind, data } of events(this.name, this.stop.signal)) {
      if (kind === "problem") return tell(data.detail);
      if (kind === "ledger") this.isChanged = true;
      else await this.show(data, kind === "end");
    }
  }

  async show(status, isOver) {
    this.status = status;
    const total = expected(status), done = status.counts.DONE;
    part("description").textContent = status.description;
    if (!this.tableOf) part("table-note").textContent = "No arm is confirmed yet.";
    const failed = status.counts.FAILED ? `, ${status.counts.FAILED} failed` : "";
    const best = status.best_arm === null ? "" : ` Best so far: ${status.best_arm}, ${status.objective} ${number(status.best_objective)} on validation.`;
    part("summary").replaceChildren(state(status.state), ` ${done} of ${total} trials done, ${status.running.length} running${failed}.${best} ${status.gpu_hours.toFixed(2)} device-hours.`);
    part("progress").max = Math.max(total, 1);
    part("progress").value = done;
    tell(`${this.name}: ${status.state}, ${done} of ${total} trials done${failed}`);
    part("running-table").hidden = status.running.length === 0;
    part("running").replaceChildren(...status.running.map((trial) => this.running(trial)));
    part("arms").replaceChildren(...status.arms.map((arm) => line(arm.arm, arm.done, arm.running, arm.failed || "", number(arm.best_objective))));
    if (this.isChanged || isOver) {
      this.isChanged = false;
      await this.showTrials();
    }
    const of = `${done} ${status.state}`;
    const isConfirmed = (this.trials || []).some((trial) => trial.status === "DONE" && trial.splits.includes("test"));
    if (isConfirmed && of !== this.tableOf && (isOver || performance.now() - this.tableAt > TABLE_MS)) this.showTable(of);
  }

  running(trial) {
    const share = trial.total ? trial.done / trial.total : 0;
    const bar = element("progress", undefined, { max: 1, value: share, "aria-label": `progress of ${trial.trial_id.slice(0, 8)}` });
    const losses = Object.entries(trial.metrics).filter(([name]) => name.includes("loss")).map(([name, value]) => `${name.replace("_loss", "")} ${value.toFixed(2)}`);
    return line(trial.trial_id.slice(0, 8), words(trial.arm), trial.seed, words(trial.stage || "starts"), holding(bar, ` ${Math.round(100 * share)} %`), words(losses.join(", ")), clock(trial.left_s));
  }

  async showTrials() {
    const page = await read(`/studies/${this.name}/trials?limit=${COUNTED}`);
    if (this.stop.signal.aborted) return;
    this.trials = page.trials;
    part("trials-note").textContent = page.total > page.trials.length ? `The first ${page.trials.length} of ${page.total}.` : "";
    part("trials").replaceChildren(...page.trials.map((trial) => {
      const failure = trial.failure ? `: ${trial.failure.failure_class} ${trial.failure.message}` : "";
      return line(trial.trial_id.slice(0, 8), words(trial.arm), trial.seed, words(trial.role), words(`${trial.status}${failure}`), number(trial.objective), trial.gpu_hours.toFixed(3));
    }));
  }

  async showTable(of) {
    this.tableOf = of;
    this.tableAt = performance.now();
    try {
      const table = await read(`/studies/${this.name}/comparison`);
      if (this.stop.signal.aborted) return;
      const clauses = table.headline ? [table.headline.tasks, table.headline.alignment, table.headline.price] : [];
      part("headline").textContent = clauses.map((clause) => clause.text).join(" ");
      part("table-note").textContent = `Means over tasks and languages on ${table.split}, in %.`;
      part("rows").replaceChildren(...table.arms.map((row) => {
        const difference = row.mean?.vs_base;
        const ends = difference?.ci95_holm || difference?.ci95;
        const delta = difference ? `${points(difference.delta)}${ends ? ` [${ends.map(points).join(", ")}]` : ""}` : "";
        return line(row.arm, row.n_seeds, row.mean ? (100 * row.mean.mean).toFixed(1) : "", delta, difference ? number(difference.p_holm ?? difference.p, 2) : "", words(row.verdict, "words"));
      }));
      part("comparison").hidden = false;
    } catch (error) {
      part("table-note").textContent = `No table yet: ${error.message}`;
    }
  }

  // Curves: of running trials again and again, of those that are over once.

  async keepCurves() {
    while (!this.stop.signal.aborted) {
      try {
        await this.readCurves();
      } catch (error) {
        tell(error.message);
      }
      await sleep(CURVES_MS);
    }
  }

  async readCurves() {
    const isRunning = new Set((this.status?.running || []).map((trial) => trial.trial_id));
    const trained = (this.trials || []).filter((trial) => trial.started_at !== null && trial.config.method !== "base");
    let isNew = false;
    for (const trial of trained.slice(-NUM_LINES)) {
      if (this.settled.has(trial.trial_id) || document.hidden) continue;
      const curve = await read(`/studies/${this.name}/trials/${trial.trial_id}/curve?points=200`);
      if (this.stop.signal.aborted) return;
      if (!isRunning.has(trial.trial_id)) this.settled.add(trial.trial_id);
      isNew ||= (this.curves.get(trial.trial_id)?.curve.total || 0) !== curve.total;
      if (curve.total) this.curves.set(trial.trial_id, { trial, curve });
    }
    if (isNew) this.drawCurves();
  }

  drawCurves() {
    const chosen = [...this.curves.values()].slice(-NUM_LINES);
    const charts = LOSSES.map(([metric, title]) => {
      const lines = chosen.filter(({ curve }) => metric in curve.metrics).map(({ trial, curve }) => ({
        name: `${trial.arm}, seed ${trial.seed}`,
        colour: this.colour(trial.arm),
        points: curve.steps.map((step, index) => [step, curve.metrics[metric][index]]).filter(([, value]) => value !== null),
      }));
      return chart(title, lines.filter((one) => one.points.length));
    });
    part("curves").replaceChildren(...charts.filter(Boolean));
    part("no-curves").hidden = part("curves").childElementCount > 0;
  }

  colour(arm) {
    if (!this.colours.has(arm)) this.colours.set(arm, `c${this.colours.size % 8}`);
    return this.colours.get(arm);
  }
}

// Drawing

function drawn(name, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function ticks(low, high) {
  const rough = (high - low) / 4 || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}

function chart(title, lines) {
  if (!lines.length) return null;
  const width = 560, height = 240, left = 44, right = 12, top = 10, bottom = 30;
  const all = lines.flatMap((one) => one.points);
  const lastStep = Math.max(...all.map(([step]) => step), 2);
  const low = Math.min(0, ...all.map(([, value]) => value)), high = Math.max(...all.map(([, value]) => value)) * 1.05 || 1;
  const x = (step) => left + ((step - 1) / (lastStep - 1)) * (width - left - right);
  const y = (value) => top + ((high - value) / (high - low)) * (height - top - bottom);
  const ends = lines.map((one) => `${one.name} ${number(one.points.at(-1)[1], 3)} at step ${one.points.at(-1)[0]}`);
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title} by step: ${ends.join("; ")}` });
  for (const value of ticks(low, high)) {
    svg.append(drawn("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    svg.append(drawn("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, String(value)));
  }
  for (const step of ticks(1, lastStep).filter((value) => Number.isInteger(value))) svg.append(drawn("text", { x: x(step), y: height - 10, "text-anchor": "middle" }, String(step)));
  for (const one of lines) {
    if (one.points.length === 1) svg.append(drawn("circle", { class: one.colour, cx: x(one.points[0][0]), cy: y(one.points[0][1]), r: 3 }));
    else svg.append(drawn("polyline", { class: one.colour, points: one.points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ") }));
  }
  const figure = element("figure"), legend = element("ul");
  for (const one of lines) {
    const item = element("li");
    item.append(element("span", undefined, { class: `key ${one.colour}` }), one.name);
    legend.append(item);
  }
  figure.append(element("figcaption", `${title} by step`), svg, legend);
  return figure;
}

// Which page, the token, the report

function open() {
  const name = decodeURIComponent(location.hash.slice(1));
  if (name === "main") return; // the skip link
  shown?.stop.abort();
  shown = name ? new Study(name) : null;
  part("list").hidden = Boolean(name);
  part("study").hidden = !name;
  document.title = name ? `${name} - afp study` : "afp studies";
  tell("");
  if (!name) return showList().catch((error) => tell(error.message));
  for (const id of ["running", "arms", "rows", "trials", "curves", "summary", "description", "headline", "table-note", "trials-note"]) part(id).replaceChildren();
  part("comparison").hidden = true;
  part("no-curves").hidden = false;
  part("progress").value = 0;
  part("study-title").textContent = name;
  part("study-title").focus();
  const report = `/v1/studies/${encodeURIComponent(name)}/report`;
  part("report-link").href = report;
  part("report-link").hidden = part("report-box").hidden = Boolean(token());
  part("report-save").hidden = !token();
  part("report-box").open = false;
  part("report-box").querySelector("iframe")?.remove();
  shown.follow();
}

part("report-box").addEventListener("toggle", () => {
  if (!part("report-box").open || part("report-box").querySelector("iframe")) return;
  const frame = element("iframe", undefined, { src: part("report-link").href, title: `Report of ${shown.name}`, sandbox: "allow-scripts allow-downloads" });
  part("report-box").append(frame);
});

part("report-save").addEventListener("click", async () => {
  const answer = await ask(`/studies/${shown.name}/report`);
  if (!answer.ok) return tell(`the report cannot be read (${answer.status})`);
  const link = element("a", undefined, { href: URL.createObjectURL(await answer.blob()), download: `${shown.name}-report.html` });
  link.click();
  URL.revokeObjectURL(link.href);
});

part("access").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("afp-token", part("token").value.trim());
  part("token").value = "";
  open();
});

addEventListener("hashchange", open);
open();
watchList();
