"use strict";
// Reads /status once a second and shows what has changed since: rates, percentiles and load are of the last seconds.

const POLL_MS = 1000;
const SHOWN_SAMPLES = 60;
const WINDOW_SAMPLES = 10;

const find = (selector, within = document) => within.querySelector(selector);
const samples = []; // the latest answers of /status, the newest last
const cards = new Map();
let token = sessionStorage.getItem("token") || "";

function headers(extra = {}) {
  return token ? { ...extra, Authorization: `Bearer ${token}` } : extra;
}

function showState(text, kind) {
  const pill = find("#state");
  pill.textContent = text;
  pill.className = `pill ${kind}`;
}

async function poll() {
  try {
    const response = await fetch("status", { headers: headers(), cache: "no-store" });
    find("#token-form").hidden = response.status !== 401;
    if (response.status === 401) {
      showState("token needed", "bad");
    } else if (response.ok) {
      take(await response.json());
    } else {
      showState(`error ${response.status}`, "bad");
    }
  } catch {
    showState("no connection", "bad");
  }
  setTimeout(poll, POLL_MS);
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
  fillForm(status.models);
}

const keyOf = (model) => `${model.name} ${model.version}`;

function earlier(model, samplesBack) {
  const status = samples[Math.max(0, samples.length - 1 - samplesBack)];
  const found = status.models.find((other) => keyOf(other) === keyOf(model));
  return found ? { model: found, time_s: status.time_s } : null;
}

function showModel(model) {
  let card = cards.get(keyOf(model));
  if (!card) {
    card = find("#model-card").content.firstElementChild.cloneNode(true);
    cards.set(keyOf(model), card);
    find("#models").append(card);
  }
  find(".name", card).textContent = model.name;
  find(".version", card).textContent = `version ${model.version}`;
  const pill = find(".pill", card);
  pill.textContent = model.ready ? "ready" : model.state.toLowerCase();
  pill.className = `pill ${model.ready ? "good" : "bad"}`;
  find(".reason", card).textContent = model.reason;
  showFigures(card, model);
  showGraph(card, model);
  showWorkers(card, model);
}

function showFigures(card, model) {
  const before = earlier(model, WINDOW_SAMPLES);
  const seconds = Math.max(1e-9, samples.at(-1).time_s - before.time_s);
  const requests = model.successes - before.model.successes;
  const rows = model.rows - before.model.rows;
  const batches = model.batches - before.model.batches;
  const counts = model.request_counts.map((count, i) => count - before.model.request_counts[i]);
  const figures = {
    "requests/s": short(requests / seconds),
    "rows/s": short(rows / seconds),
    "rows a batch": batches ? short(rows / batches) : "–",
    "waiting": model.waiting,
    "failed": model.failures,
    "p50": percentile(counts, 0.5),
    "p90": percentile(counts, 0.9),
    "p99": percentile(counts, 0.99),
  };
  const list = find(".figures", card);
  list.replaceChildren(
    ...Object.entries(figures).map(([name, value]) => {
      const group = document.createElement("div");
      const term = document.createElement("dt");
      const figure = document.createElement("dd");
      term.textContent = name;
      figure.textContent = value;
      group.append(term, figure);
      return group;
    }),
  );
}

function percentile(counts, share) {
  const bounds = samples.at(-1).bounds_s;
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (!total) return "–";
  let below = 0;
  for (const [i, count] of counts.entries()) {
    below += count;
    if (below >= share * total) return i < bounds.length ? milliseconds(bounds[i]) : `> ${milliseconds(bounds.at(-1))}`;
  }
  return "–";
}

function milliseconds(seconds) {
  return seconds < 1 ? `${short(seconds * 1000)} ms` : `${short(seconds)} s`;
}

function short(number) {
  if (number >= 10000) return `${(number / 1000).toFixed(1)}k`;
  return number >= 100 ? number.toFixed(0) : number.toFixed(number >= 10 ? 1 : 2);
}

function showGraph(card, model) {
  const rates = [];
  for (let i = 1; i < samples.length; i++) {
    const [a, b] = [samples[i - 1], samples[i]].map((s) => s.models.find((other) => keyOf(other) === keyOf(model)));
    rates.push(a && b ? Math.max(0, (b.successes - a.successes) / (samples[i].time_s - samples[i - 1].time_s)) : 0);
  }
  const most = Math.max(1, ...rates);
  const step = 300 / SHOWN_SAMPLES;
  const start = 300 - (rates.length - 1) * step;
  const points = rates.map((rate, i) => `${(start + i * step).toFixed(1)},${(58 - (56 * rate) / most).toFixed(1)}`);
  find("path", card).setAttribute("d", points.length ? `M${start},60 L${points.join(" L")} L300,60 Z` : "");
  find(".most", card).textContent = rates.length ? short(Math.max(...rates)) : "0";
  find("svg", card).setAttribute("aria-label", `requests a second of ${model.name}: now ${short(rates.at(-1) || 0)}`);
}

function showWorkers(card, model) {
  const before = earlier(model, WINDOW_SAMPLES);
  const seconds = Math.max(1e-9, samples.at(-1).time_s - before.time_s);
  const lines = Object.entries(model.workers).map(([label, worker]) => {
    const then = before.model.workers[label] || worker;
    const load = Math.min(1, Math.max(0, (worker.busy_s - then.busy_s) / seconds / worker.instances));
    const meter = document.createElement("meter");
    meter.value = load;
    meter.title = `${Math.round(100 * load)} %`;
    const line = document.createElement("tr");
    const cells = [label, worker.state, meter, short((worker.rows - then.rows) / seconds), worker.restarts];
    line.append(
      ...cells.map((content) => {
        const cell = document.createElement("td");
        cell.append(content);
        return cell;
      }),
    );
    return line;
  });
  find("tbody", card).replaceChildren(...lines);
}

// ---- the form

function fillForm(models) {
  const loaded = models.filter((model) => model.ready);
  find("#try").hidden = !loaded.length;
  const select = find("#model");
  const keys = loaded.map(keyOf);
  if (keys.join("\n") === [...select.options].map((option) => option.value).join("\n")) return;
  select.replaceChildren(...loaded.map((model) => new Option(`${model.name}, version ${model.version}`, keyOf(model))));
  showExample();
}

function chosenModel() {
  return samples.at(-1).models.find((model) => keyOf(model) === find("#model").value);
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
  find("#inputs").value = JSON.stringify(inputs.length ? inputs : [{ name: "x", datatype: "FP32", shape: [1, 1], data: [0] }]);
}

async function infer(event) {
  event.preventDefault();
  const model = chosenModel();
  const outputs = find("#outputs");
  const path = `v2/models/${encodeURIComponent(model.name)}/versions/${encodeURIComponent(model.version)}/infer`;
  try {
    const body = JSON.stringify({ inputs: JSON.parse(find("#inputs").value) });
    const started = performance.now();
    const response = await fetch(path, { method: "POST", body, headers: headers({ "Content-Type": "application/json" }) });
    const answer = await response.json();
    find("#took").textContent = `${(performance.now() - started).toFixed(1)} ms`;
    outputs.className = response.ok ? "" : "bad";
    outputs.textContent = response.ok ? JSON.stringify(answer.outputs, null, 1) : answer.error;
  } catch (error) {
    find("#took").textContent = "";
    outputs.className = "bad";
    outputs.textContent = error instanceof SyntaxError ? `The inputs are not JSON: ${error.message}` : String(error);
  }
}

find("#infer-form").addEventListener("submit", infer);
find("#model").addEventListener("change", showExample);
find("#token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = find("#token").value;
  sessionStorage.setItem("token", token);
});
poll();
