// The page of `kbn serve`: it asks /state every two seconds, and sends what is tried to /predict and to the protocol's infer.
"use strict";

const PIXEL_CHANNELS = [1, 3, 4];
const shown = new Map(); // by name and version the article of a model
let token = sessionStorage.getItem("token") || "";

const byId = (id) => document.getElementById(id);
const headers = () => (token ? { Authorization: `Bearer ${token}` } : {});
const milliseconds = (value) => (value === null ? "–" : value.toFixed(value < 10 ? 2 : 1));
const sizes = (shape) => (shape.length ? shape.map((size) => (size < 0 ? "any" : size)).join(" x ") : "one value");
const takesImages = (port) =>
  port.shape.length === 4 && [1, 3].filter((axis) => PIXEL_CHANNELS.includes(port.shape[axis])).length === 1;

function fill(body, rows) {
  body.replaceChildren(...rows.map((cells) => {
    const row = document.createElement("tr");
    row.append(...cells.map(([text, kind]) => {
      const cell = document.createElement("td");
      cell.textContent = text;
      cell.className = kind || "";
      return cell;
    }));
    return row;
  }));
}

const path = (model) => `${encodeURIComponent(model.name)}/versions/${encodeURIComponent(model.version)}`;
const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

function article(model) {
  const found = byId("model").content.cloneNode(true).firstElementChild;
  const part = (selector) => found.querySelector(selector);
  fill(part(".ports tbody"), [["in", model.inputs], ["out", model.outputs]].flatMap(([way, ports]) =>
    ports.map((port) => [[way], [port.name], [port.datatype], [sizes(port.shape)]])));
  const images = model.inputs.filter(takesImages);
  part(".files").append(...model.inputs.map((port) => {
    const label = document.createElement("label");
    const field = Object.assign(document.createElement("input"), { type: "file", name: port.name, required: true });
    field.accept = takesImages(port) ? "image/*,.npy" : ".npy";
    const preview = Object.assign(document.createElement("img"), { className: "preview", hidden: true, alt: "" });
    field.addEventListener("change", () => {
      const file = field.files[0];
      preview.hidden = !file || !file.type.startsWith("image/");
      if (!preview.hidden) preview.src = URL.createObjectURL(file);
    });
    label.append(`${port.name}: ${takesImages(port) ? "an image or a .npy file" : "a .npy file"} `, field, preview);
    return label;
  }));
  part(".range").hidden = !images.length;
  part(".try").addEventListener("submit", (event) => {
    event.preventDefault();
    const range = images.length ? `?range=${part(".range select").value}` : "";
    run(found, `predict/${path(model)}${range}`, { body: new FormData(part(".try")) });
  });
  part(".draw").addEventListener("click", () => {
    const body = JSON.stringify({ inputs: model.inputs.map(drawn) });
    run(found, `v2/models/${path(model)}/infer`, { body });
  });
  return found;
}

function drawn(port) {
  const shape = port.shape.map((size, axis) => (size >= 0 ? size : axis ? 32 : 1));
  const count = shape.reduce((product, size) => product * size, 1);
  const draw = { BOOL: () => Math.random() < 0.5, BYTES: () => "kbn", FP16: Math.random, FP32: Math.random, FP64: Math.random }[port.datatype]
    || (() => Math.floor(Math.random() * 2));
  return { name: port.name, datatype: port.datatype, shape, data: Array.from({ length: count }, draw) };
}

async function run(found, url, request) {
  const part = (selector) => found.querySelector(selector);
  const buttons = found.querySelectorAll("button");
  buttons.forEach((button) => { button.disabled = true; });
  part(".took").className = "note took";
  part(".took").textContent = "Running …";
  const started = performance.now();
  try {
    const response = await fetch(url, { method: "POST", headers: headers(), ...request });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error);
    part(".took").textContent = `${milliseconds(performance.now() - started)} ms, there and back`;
    const top = (answer.top || [])[0] || [];
    part(".top").hidden = !top.length;
    fill(part(".top tbody"), top.map((each) => [[each.label ?? String(each.class)], [each.score.toPrecision(4), "number score"]]));
    part(".top").querySelectorAll(".score").forEach((cell, index) => {
      cell.style.setProperty("--part", `${Math.max(0, Math.min(1, top[index].score)) * 100}%`);
    });
    part(".answer").hidden = false;
    part(".answer code").textContent = JSON.stringify(answer.outputs).replaceAll(",", ", ").slice(0, 5000);
  } catch (error) {
    part(".took").className = "bad took";
    part(".took").textContent = error.message;
    part(".top").hidden = part(".answer").hidden = true;
  }
  buttons.forEach((button) => { button.disabled = false; });
}

// `versions` are those of the same name, the highest last.
function title(found, model, versions) {
  const part = (selector) => found.querySelector(selector);
  const alone = versions.length === 1;
  part("h2").textContent = alone && model.version === "1" ? model.name : `${model.name}, version ${model.version}`;
  part(".unnamed").hidden = alone || model.version !== versions.at(-1);
  const image = model.inputs.length === 1 && takesImages(model.inputs[0]);
  const field = image ? "image=@cat.png" : model.inputs.map((port) => `${port.name}=@${port.name}.npy`).join(" -F ");
  part(".curl").textContent = `curl -F ${field} ${location.origin}/predict/${alone ? encodeURIComponent(model.name) : path(model)}`;
}

function update(found, model) {
  const part = (selector) => found.querySelector(selector);
  const tone = { passed: "good", failed: "bad" }[model.check.verdict] || "warn";
  const word = { passed: "checked", failed: "CHECK FAILED", never: "no check recorded", unreadable: "check unreadable" };
  part(".verdict").className = `verdict ${tone}`;
  part(".verdict").textContent = word[model.check.verdict];
  part(".sentence").className = `sentence ${tone}`;
  part(".sentence").textContent = model.check.sentence;
  const merged = model.parameters.merges ? "requests that wait are run together" : `each request is run alone: ${model.why_apart}`;
  part(".facts").textContent = `${model.file}, SHA-256 ${model.parameters.sha256.slice(0, 16)}…; ${merged}`;
  part(".facts").title = model.parameters.sha256;
  const latency = model.latency;
  fill(part(".latency tbody"), [[latency.requests, milliseconds(latency.median), milliseconds(latency.p99), model.waiting].map((text) => [text, "number"])]);
  part(".check").hidden = !model.check.errors.length;
  fill(part(".check tbody"), model.check.errors.map((each) => [[each.output], [each.inputs],
    ...["model_error", "file_error", "allowed"].map((key) => [each[key] === null ? "–" : each[key].toExponential(2), "number"])]));
}

async function refresh() {
  try {
    const response = await fetch("state", { headers: headers() });
    byId("door").hidden = response.status !== 401;
    const state = await response.json();
    if (!response.ok) throw new Error(state.error);
    byId("server").className = state.ready ? "good" : "warn";
    const versions = new Map();
    for (const model of state.models) versions.set(model.name, [...(versions.get(model.name) || []), model.version]);
    const several = versions.size === state.models.length ? "" : `, ${counted(state.models.length, "version")}`;
    byId("server").textContent = `${state.ready ? "ready" : "not ready"}, ${counted(versions.size, "model")}${several}, kbn ${state.version}`;
    const failures = Object.entries(state.failures).map(([name, why]) => `${name} could not be loaded: ${why}`);
    byId("failures").hidden = !failures.length;
    byId("failures").textContent = failures.join(" ");
    const keys = new Set();
    for (const model of state.models) {
      const key = JSON.stringify([model.name, model.version, model.inputs, model.outputs]);
      keys.add(key);
      if (!shown.has(key)) {
        shown.set(key, article(model));
        byId("models").append(shown.get(key));
      }
      title(shown.get(key), model, versions.get(model.name));
      update(shown.get(key), model);
    }
    for (const [key, found] of shown) {
      if (!keys.has(key)) {
        found.remove();
        shown.delete(key);
      }
    }
  } catch (error) {
    byId("server").className = "bad";
    byId("server").textContent = error instanceof TypeError ? "The server does not answer." : error.message;
  }
}

byId("door").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value;
  sessionStorage.setItem("token", token);
  refresh();
});
refresh();
setInterval(() => { if (!document.hidden) refresh(); }, 2000);
