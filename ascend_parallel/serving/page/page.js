"use strict";
// Reads /status once a second and shows what has changed since: rates, percentiles and load are of the last seconds.
// Texts of the server are only ever set as text.

const POLL_MS = 1000;
const SHOWN_SAMPLES = 60;
const WINDOW_SAMPLES = 10;
const SHOWN_ELEMENTS = 1000; // of an output

const samples = []; // the latest answers of /status, the newest last
const cards = new Map();
let isRunning = false;

function showState(text, kind) {
  showPill(text, kind);
  find("main").classList.toggle("stale", kind === "bad" && text !== "not ready");
}

async function poll() {
  let status = null;
  try {
    const response = await fetch("status", { headers: headers(), cache: "no-store" });
    askForToken(response.status === 401);
    if (response.ok) status = await response.json();
    else showState(response.status === 401 ? "token needed" : `error ${response.status}`, "bad");
  } catch {
    showState("no connection", "bad");
  }
  if (status) take(status);
}

async function pollForever() {
  try {
    await poll();
  } finally {
    setTimeout(pollForever, POLL_MS);
  }
}

function take(status) {
  samples.push(status);
  if (samples.length > SHOWN_SAMPLES + 1) samples.shift();
  showState(status.ready ? "ready" : "not ready", status.ready ? "good" : "bad");
  for (const model of status.models) showModel(model);
  for (const [key, card] of cards) {
    if (!status.models.some((model) => keyOf(model) === key)) {
      card.remove();
      cards.delete(key);
    }
  }
  find("#images").hidden = !status.draws_images;
  fillForm(status.models);
}

// ---- what has changed

const keyOf = (model) => `${model.name} ${model.version}`;
const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

/** Return the change of a model's figures over up to so many samples before samples[end]. */
function changeOf(model, end, count) {
  const now = samples[end].models.find((other) => keyOf(other) === keyOf(model));
  let before = now;
  let seconds = 1e-9;
  for (let i = end - 1; now && i >= Math.max(0, end - count); i--) {
    const then = samples[i].models.find((other) => keyOf(other) === keyOf(model));
    if (!then || then.successes > before.successes || then.batches > before.batches) break; // loaded anew since
    before = then;
    seconds = samples[end].time_s - samples[i].time_s;
  }
  if (!now) return { seconds, requests: 0, rows: 0, batches: 0, counts: [], before: null };
  return {
    seconds,
    requests: now.successes - before.successes,
    rows: now.rows - before.rows,
    batches: now.batches - before.batches,
    counts: now.request_counts.map((n, i) => Math.max(0, n - before.request_counts[i])),
    before,
  };
}

/** Return the latency in seconds that this share of requests kept to; null where there were none. */
function percentile(counts, share) {
  const bounds = samples.at(-1).bounds_s;
  const total = sum(counts);
  let below = 0;
  for (const [i, count] of counts.entries()) {
    below += count;
    if (total && below >= share * total) return bounds[Math.min(i, bounds.length - 1)];
  }
  return null;
}

function milliseconds(seconds) {
  if (seconds === null) return "–";
  return seconds < 1 ? `${short(seconds * 1000)} ms` : `${short(seconds)} s`;
}

function short(number) {
  if (number === 0) return "0";
  if (number >= 10000) return `${(number / 1000).toFixed(1)}k`;
  return number >= 100 ? number.toFixed(0) : number.toFixed(number >= 10 ? 1 : 2);
}

// ---- a model

function showModel(model) {
  let card = cards.get(keyOf(model));
  if (!card) {
    card = find("#model-card").content.firstElementChild.cloneNode(true);
    card.setAttribute("aria-label", `${model.kind} ${model.name} version ${model.version}`);
    cards.set(keyOf(model), card);
    find("#models").append(card);
  }
  setText(find(".name", card), model.name);
  setText(find(".version", card), `${model.kind === "model" ? "" : `${model.kind}, `}version ${model.version}`);
  const pill = find(".pill", card);
  setText(pill, model.ready ? "ready" : model.state === "READY" ? "no worker" : model.state.toLowerCase());
  pill.className = `pill ${model.ready ? "good" : "bad"}`;
  setText(find(".reason", card), model.reason);
  const change = changeOf(model, samples.length - 1, WINDOW_SAMPLES);
  showFigures(card, model, change);
  showGraphs(card, model);
  showDevices(card, model, change);
}

function showFigures(card, model, { seconds, requests, rows, batches, counts }) {
  const isPipeline = model.kind === "pipeline"; // its ops make batches, not itself
  const figures = {
    "requests/s": short(requests / seconds),
    ...(isPipeline ? {} : { "rows/s": short(rows / seconds), "rows a batch": batches ? short(rows / batches) : "–" }),
    "waiting": model.waiting,
    "p50 latency": milliseconds(percentile(counts, 0.5)),
    "p90 latency": milliseconds(percentile(counts, 0.9)),
    "p99 latency": milliseconds(percentile(counts, 0.99)),
    "failed": model.failures,
  };
  const list = find(".figures", card);
  if (!list.children.length) list.append(...Object.keys(figures).map(makeFigure));
  Object.values(figures).forEach((value, i) => setText(find("dd", list.children[i]), value));
}

function makeFigure(name) {
  const group = document.createElement("div");
  const term = document.createElement("dt");
  term.textContent = name;
  group.append(term, document.createElement("dd"));
  return group;
}

function showGraphs(card, model) {
  const changes = samples.slice(1).map((_, i) => changeOf(model, i + 1, 1));
  const rates = changes.map(({ requests, seconds }) => requests / seconds);
  const slow = changes.map(({ counts }) => percentile(counts, 0.99));
  showGraph(card, "rate", rates, (rate) => short(rate ?? 0), `requests a second of ${model.name}`);
  showGraph(card, "slow", slow, milliseconds, `p99 latency of ${model.name}`);
}

function showGraph(card, name, values, inWords, title) {
  const most = Math.max(0, ...values);
  const step = 300 / (SHOWN_SAMPLES - 1);
  const start = 300 - (values.length - 1) * step;
  const points = values.map((value, i) => `${(start + i * step).toFixed(1)},${(60 - (56 * value) / (most || 1)).toFixed(1)}`);
  const isFlat = most === 0;
  const svg = find(`.${name}`, card);
  find("path", svg).setAttribute("d", isFlat ? "" : `M${start.toFixed(1)},60 L${points.join(" L")} L300,60 Z`);
  setText(find(`.most-${name}`, card), isFlat ? "–" : inWords(most));
  svg.setAttribute("aria-label", `${title}: now ${inWords(values.at(-1) ?? null)}, peak ${inWords(isFlat ? null : most)}`);
}

function showDevices(card, model, { seconds, before }) {
  const body = find("tbody", card);
  const workers = Object.entries(model.workers);
  find("table", card).hidden = model.kind === "pipeline"; // its ops have the devices
  while (body.children.length > workers.length) body.lastElementChild.remove();
  while (body.children.length < workers.length) {
    body.append(find("#device-line").content.firstElementChild.cloneNode(true));
  }
  workers.forEach(([label, worker], i) => {
    const line = body.children[i];
    const then = before?.workers[label] ?? worker;
    const load = Math.min(1, Math.max(0, (worker.busy_s - then.busy_s) / seconds / worker.instances));
    const percent = `${Math.round(100 * load)} %`;
    setText(find(".label", line), worker.instances > 1 ? `${label} × ${worker.instances}` : label);
    setText(find(".state", line), worker.state);
    const bar = find(".bar", line);
    bar.setAttribute("aria-valuenow", Math.round(100 * load));
    bar.setAttribute("aria-label", `load of ${label}: ${percent}`);
    bar.firstElementChild.style.width = `${100 * load}%`;
    setText(find(".percent", line), percent);
    setText(find(".rows", line), short(Math.max(0, worker.rows - then.rows) / seconds));
    setText(find(".restarts", line), worker.restarts);
  });
}

// ---- the form

function fillForm(models) {
  const loaded = models.filter((model) => model.state === "READY" && model.kind !== "op");
  find("#try").hidden = !loaded.length;
  const select = find("#model");
  const keys = loaded.map(keyOf);
  if (keys.join("\n") === [...select.options].map((option) => option.value).join("\n")) return;
  const chosen = select.value;
  select.replaceChildren(...loaded.map((model) => new Option(`${model.name}, version ${model.version}`, keyOf(model))));
  if (keys.includes(chosen)) select.value = chosen; // and the inputs stay as they were typed
  else showExample();
}

function chosenModel() {
  return samples.at(-1)?.models.find((model) => keyOf(model) === find("#model").value);
}

function showExample() {
  const model = chosenModel();
  if (!model) return;
  const inputs = model.inputs.map((input) => {
    const shape = input.shape.map((size) => (size < 0 ? 1 : size));
    const count = shape.reduce((product, size) => product * size, 1);
    const value = input.datatype === "BOOL" ? false : 0;
    return { ...input, shape, data: count <= 4096 ? Array(count).fill(value) : [] };
  });
  const example = inputs.length ? inputs : [{ name: "x", datatype: "FP32", shape: [1, 1], data: [0] }];
  find("#inputs").value = `[${example.map((input) => JSON.stringify(input)).join(",\n ")}]`;
}

async function infer(event) {
  event?.preventDefault();
  const model = chosenModel();
  if (!model || isRunning) return;
  const path = `v2/models/${encodeURIComponent(model.name)}/versions/${encodeURIComponent(model.version)}/infer`;
  isRunning = true;
  setText(find("#took"), "running");
  try {
    const body = JSON.stringify({ inputs: JSON.parse(find("#inputs").value) });
    const started = performance.now();
    const response = await fetch(path, { method: "POST", body, headers: headers({ "Content-Type": "application/json" }) });
    const answer = await response.json();
    const took = milliseconds((performance.now() - started) / 1000);
    if (response.ok) showOutputs(answer.outputs.map(describe).join("\n\n"), "", `answered in ${took}`);
    else showOutputs("", answer.error, `error ${response.status}${"code" in answer ? `, code ${answer.code}` : ""}`);
  } catch (error) {
    const text = error instanceof SyntaxError ? `The inputs are not JSON: ${error.message}` : "The server does not answer.";
    showOutputs("", text, "");
  } finally {
    isRunning = false;
  }
}

function showOutputs(outputs, error, took) {
  setText(find("#outputs"), outputs);
  setText(find("#infer-error"), error);
  setText(find("#took"), took);
}

function describe(output) {
  const more = output.data.length - SHOWN_ELEMENTS;
  const shown = output.data.slice(0, SHOWN_ELEMENTS);
  const elements = (output.datatype === "BYTES" ? shown.map((text) => JSON.stringify(text)) : shown).join(", ");
  return `${output.name} ${output.datatype} [${output.shape.join(", ")}]\n${elements}${more > 0 ? `, and ${more} more` : ""}`;
}

/** Show the metrics of a server with a token: a link sends none. */
async function showMetrics(event) {
  if (!token) return;
  event.preventDefault();
  const response = await fetch("metrics", { headers: headers() });
  location.href = URL.createObjectURL(new Blob([await response.text()], { type: "text/plain" }));
}

find("#infer-form").addEventListener("submit", infer);
find("#inputs").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) infer(event);
});
find("#model").addEventListener("change", showExample);
find("#token-form").addEventListener("submit", (event) => useToken(event, poll));
find("#metrics").addEventListener("click", showMetrics);
pollForever();
