"use strict";
// Draws with POST /v1/images/generations, and shows its events as they come.
// Texts of the server and of the reader are only ever set as text.

const POLL_MS = 3000; // until the model is there, and after it was gone
const SHOWN_PICTURES = 60;
const SMALL_PIXELS = 256; // pictures up to this width are enlarged with sharp pixels

let models = [];
let drawing = null; // what stops the drawing that runs
let timer = 0;

// ---- the models

async function loadModels() {
  let isReady = false;
  try {
    const response = await fetch("v1/models", { headers: headers(), cache: "no-store" });
    noteStatus(response.status);
    if (response.ok) isReady = takeModels((await response.json()).data);
    else showPill(response.status === 401 ? "token needed" : `error ${response.status}`, "bad");
  } catch {
    showPill("no connection", "bad");
  }
  clearTimeout(timer);
  if (!isReady) timer = setTimeout(loadModels, POLL_MS);
}

/** Show the form of the token instead of that of pictures where the server asks for one. */
function noteStatus(status) {
  if (status === 401) find("main").hidden = true;
  askForToken(status === 401);
}

/** Fill the form with what the models offer; return whether they are loaded. */
function takeModels(found) {
  models = found;
  find("main").hidden = !models.length;
  if (!models.length) showPill("no model draws pictures", "bad");
  const isReady = models.length > 0 && models.every((model) => model.sizes.length);
  if (models.length) showPill(isReady ? "ready" : "loading", isReady ? "good" : "bad");
  if (!isReady) return false;
  find("#model").replaceChildren(...models.map((model) => new Option(model.id, model.id)));
  showDefaults();
  return true;
}

function showDefaults() {
  const model = models.find((other) => other.id === find("#model").value);
  find("#size").replaceChildren(...model.sizes.map((size) => new Option(size, size)));
  find("#steps").value = model.steps;
  find("#steps").max = model.max_steps;
  find("#guidance").value = model.guidance_scale;
  find("#count").max = model.max_pictures;
}

// ---- drawing

function readForm() {
  const number = (id) => (find(id).value === "" ? null : Number(find(id).value));
  return {
    model: find("#model").value,
    prompt: find("#prompt").value.trim(),
    negative_prompt: find("#negative-prompt").value.trim(),
    size: find("#size").value,
    n: number("#count") ?? 1,
    steps: number("#steps"),
    guidance_scale: number("#guidance"),
    seed: number("#seed"),
    partial_images: number("#previews") ?? 0,
    progress: true,
    stream: true,
  };
}

async function draw(event) {
  event?.preventDefault();
  if (drawing || !find("#draw-form").reportValidity()) return;
  const request = readForm();
  const frames = Array.from({ length: request.n }, () => addFrame(request));
  drawing = new AbortController();
  showDrawing(true);
  const started = performance.now();
  try {
    await receive(request, frames, drawing.signal);
    showEnd(`drawn in ${((performance.now() - started) / 1000).toFixed(1)} s`, "");
  } catch (error) {
    for (const frame of frames) if (!frame.isComplete) frame.figure.remove();
    if (error.name === "AbortError") showEnd("stopped", "");
    else showEnd("", error instanceof TypeError ? "The server does not answer." : error.message);
  } finally {
    drawing = null;
    showDrawing(false);
  }
}

function showDrawing(isDrawing) {
  find("#draw").disabled = isDrawing;
  find("#stop").hidden = !isDrawing;
  if (isDrawing) showEnd("waiting", "");
}

function showEnd(told, error) {
  setText(find("#told"), told);
  setText(find("#draw-error"), error);
}

async function receive(request, frames, signal) {
  const response = await fetch("v1/images/generations", {
    method: "POST",
    headers: headers({ "Content-Type": "application/json" }),
    body: JSON.stringify(request),
    signal,
  });
  if (!response.ok) {
    noteStatus(response.status);
    throw new Error((await response.json()).error.message);
  }
  for await (const event of readEvents(response.body)) take(event, frames);
  if (!frames.every((frame) => frame.isComplete)) throw new Error("The server has ended before the picture was complete.");
}

/** Yield the data of the server-sent events of a body. */
async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").find((line) => line.startsWith("data: "));
      if (data) yield JSON.parse(data.slice("data: ".length));
    }
  }
}

function take(event, frames) {
  if (event.type === "error") throw new Error(event.error.message);
  const frame = frames[event.index];
  if (event.steps) {
    find("progress", frame.figure).value = event.step / event.steps;
    setText(find("#told"), `step ${event.step} of ${event.steps}`);
  }
  if (event.b64_json) showPicture(frame, event);
  if (event.type === "image_generation.completed") complete(frame, event);
}

// ---- pictures

function addFrame(request) {
  const figure = find("#picture").content.firstElementChild.cloneNode(true);
  setText(find(".prompt", figure), request.prompt);
  find("progress", figure).setAttribute("aria-label", `progress of ${request.prompt}`);
  find("#pictures").prepend(figure);
  while (find("#pictures").children.length > SHOWN_PICTURES) find("#pictures").lastElementChild.remove();
  return { figure, prompt: request.prompt, isComplete: false };
}

function showPicture(frame, event) {
  const image = find("img", frame.figure);
  const width = Number(event.size.split("x")[0]);
  image.src = `data:image/png;base64,${event.b64_json}`;
  image.alt = event.type === "image_generation.completed" ? frame.prompt : `${frame.prompt}, not complete yet`;
  image.classList.toggle("small", width <= SMALL_PIXELS);
  image.hidden = false;
  find(".blank", frame.figure).hidden = true;
}

function complete(frame, event) {
  frame.isComplete = true;
  find("progress", frame.figure).hidden = true;
  setText(find(".details", frame.figure), `seed ${event.seed}, ${event.size}`);
  const link = find("a", frame.figure);
  link.href = find("img", frame.figure).src;
  link.download = `${frame.prompt.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60) || "picture"}-${event.seed}.png`;
  link.setAttribute("aria-label", `Save ${frame.prompt}, seed ${event.seed}`);
  link.hidden = false;
}

find("#draw-form").addEventListener("submit", draw);
find("#prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) draw(event);
});
find("#stop").addEventListener("click", () => drawing?.abort());
find("#model").addEventListener("change", showDefaults);
find("#token-form").addEventListener("submit", (event) => useToken(event, loadModels));
loadModels();
