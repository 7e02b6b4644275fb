// What the pages need beyond htmx: uploads, sliders, dice, copying, confirmation. Everything else works without it.
"use strict";

const find = (root, name) => root.querySelector(`[data-${name}]`);

function csrf() {
  return JSON.parse(document.body.getAttribute("hx-headers") || "{}")["x-csrf-token"] || "";
}

async function upload(zone, file) {
  const state = find(zone, "state");
  const id = find(zone, "upload-id");
  const button = zone.closest("form").querySelector("button.primary");
  id.value = "";
  button.disabled = true;
  state.classList.remove("bad");
  try {
    state.textContent = `Uploading ${file.name}…`;
    const fields = { size_bytes: String(file.size), content_type: file.type || "application/octet-stream", filename: file.name };
    const asked = await fetch("/ui/uploads", {
      method: "POST", headers: { "x-csrf-token": csrf() }, body: new URLSearchParams(fields),
    });
    const answer = await asked.json();
    if (!asked.ok) throw new Error(`${answer.title}: ${answer.detail}`);
    const sent = await fetch(answer.url, { method: answer.method, headers: sendable(answer.headers), body: file });
    if (!sent.ok) throw new Error(`the bucket answered ${sent.status}`);
    id.value = answer.upload_id;
    find(zone, "filename").value = plain(file.name);
    state.textContent = `${file.name} is uploaded.`;
  } catch (error) {
    state.classList.add("bad");
    const isBlocked = error instanceof TypeError;
    state.textContent = isBlocked
      ? `The browser could not reach the bucket. Allow this page there: comfyui-modal bucket setup --cors-origin ${location.origin}`
      : `The upload failed: ${error.message}`;
  } finally {
    button.disabled = false;
  }
}

// The browser sets the length itself and refuses to be given it.
function sendable(headers) {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => name.toLowerCase() !== "content-length"));
}

// Names of input files may have no characters that paths or shells know.
function plain(name) {
  return name.replace(/[^\p{L}\p{N}._ -]/gu, "_").replace(/^[. ]+/, "").slice(-100) || "file";
}

function given(zone, file) {
  if (zone.dataset.graph) read(zone, file);
  else take(zone, file);
}

// A graph in a JSON file, or what ComfyUI wrote into a PNG. The picture itself is not sent.
const MOST_GRAPH = 3e6;

async function read(zone, file) {
  const state = find(zone, "state");
  const field = document.getElementById(zone.dataset.graph);
  state.classList.remove("bad");
  try {
    const head = new Uint8Array(await file.slice(0, 8).arrayBuffer());
    const isPng = String.fromCharCode(...head) === "\x89PNG\r\n\x1a\n";
    if (!isPng && /^(image|video|audio)\//.test(file.type)) throw new Error("only of a PNG can the workflow be read here; comfyui-modal workflows convert reads WebP, FLAC and MP4 too");
    const text = isPng ? await embedded(file) : await file.text();
    if (text.length > MOST_GRAPH) throw new Error("it is too large for this page; send it to POST /v1/jobs");
    field.value = text;
    state.textContent = `${file.name} is read.`;
    field.dispatchEvent(new Event("change", { bubbles: true }));
  } catch (error) {
    state.classList.add("bad");
    state.textContent = `${file.name} was not read: ${error.message}`;
  }
}

// The editor's file has positions and notes, so it comes before the graph that ran.
async function embedded(file) {
  const texts = await pngTexts(file);
  const text = texts.workflow || texts.prompt;
  if (!text) throw new Error("the picture has no workflow in it; ComfyUI writes one unless metadata are switched off");
  return text;
}

async function pngTexts(file) {
  const bytes = new Uint8Array(await file.slice(0, 64e6).arrayBuffer());
  const view = new DataView(bytes.buffer);
  const found = {};
  for (let place = 8; place + 8 <= bytes.length;) {
    const length = view.getUint32(place);
    const kind = latin(bytes.subarray(place + 4, place + 8));
    const body = bytes.subarray(place + 8, place + 8 + length);
    const end = body.indexOf(0);
    if (/^(tEXt|zTXt|iTXt)$/.test(kind) && end > 0) found[latin(body.subarray(0, end))] = await pngText(kind, body.subarray(end + 1));
    place += 12 + length;
  }
  return found;
}

async function pngText(kind, rest) {
  if (kind === "tEXt") return latin(rest);
  if (kind === "zTXt") return latin(await inflated(rest.subarray(1)));
  let start = 2;  // behind the language and the translated name
  for (let names = 0; names < 2; names += 1) start = rest.indexOf(0, start) + 1;
  const text = rest.subarray(start);
  return new TextDecoder().decode(rest[0] ? await inflated(text) : text);
}

function latin(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return text;
}

async function inflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function take(zone, file) {
  const preview = find(zone, "preview");
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.hidden = true;
  preview.removeAttribute("src");
  show(preview, file);
  upload(zone, file);
}

// As a data: URL, which the page's policy allows for pictures; large files are only named.
function show(preview, file) {
  if (!/^image\/(png|jpeg|webp|gif|avif)$/.test(file.type) || file.size > 8e6) return;
  const reader = new FileReader();
  reader.onload = () => { preview.src = reader.result; preview.hidden = false; preview.alt = `Preview of ${file.name}`; };
  reader.readAsDataURL(file);
}

document.addEventListener("change", (event) => {
  const zone = event.target.closest("[data-upload], [data-graph]");
  if (zone && event.target.matches("[data-file]") && event.target.files.length) given(zone, event.target.files[0]);
});

for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    const zone = event.target.closest && event.target.closest("[data-upload], [data-graph]");
    if (!zone) return;
    event.preventDefault();
    zone.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind !== "drop" || !event.dataTransfer.files.length) return;
    find(zone, "file").files = event.dataTransfer.files;
    given(zone, event.dataTransfer.files[0]);
  });
}

document.addEventListener("input", (event) => {
  const target = event.target;
  if (target.matches("[data-for]")) document.getElementById(target.dataset.for).value = target.value;
  const slider = target.id && document.querySelector(`[data-for="${CSS.escape(target.id)}"]`);
  if (slider) slider.value = target.value;
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("button, a");
  if (!button) return;
  if (button.matches("[data-dice]")) {
    const field = document.getElementById(button.dataset.dice);
    const low = Number(field.min || 0), high = Math.min(Number(field.max || 2 ** 53 - 1), 2 ** 53 - 1);
    field.value = String(low + Math.floor(Math.random() * (high - low)));
  }
  if (button.matches("[data-close]")) button.closest(".problem").remove();
  if (button.matches("[data-copy]")) copy(button);
  if (button.matches("[data-zoom]")) { event.preventDefault(); zoom(button); }
});

async function copy(button) {
  const text = button.parentElement.querySelector("code").textContent;
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(button.parentElement.querySelector("code"));
    button.textContent = "Selected: press Ctrl-C";
  }
  setTimeout(() => { button.textContent = before; }, 1500);
}

function zoom(link) {
  const dialog = document.createElement("dialog");
  dialog.className = "zoom";
  dialog.setAttribute("aria-label", "Picture in full size");
  const picture = new Image();
  picture.src = link.href;
  picture.alt = link.querySelector("img").alt;
  dialog.append(picture);
  dialog.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => { dialog.remove(); link.focus(); });
  document.body.append(dialog);
  dialog.showModal();
}

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});

// A hidden page does not poll.
document.addEventListener("htmx:beforeRequest", (event) => {
  if (document.hidden && event.target.matches("[data-poll]")) event.preventDefault();
});

// On a phone the result is below the form.
document.addEventListener("htmx:afterSwap", (event) => {
  const part = event.target;
  if (part.id === "result" && part.getBoundingClientRect().top > innerHeight / 2) part.scrollIntoView();
});

document.addEventListener("htmx:beforeSwap", () => { document.getElementById("notice").replaceChildren(); });

// Files that were chosen before this script was there, or that the browser has kept over a reload.
for (const input of document.querySelectorAll("[data-file]")) {
  if (input.files.length) given(input.closest("[data-upload], [data-graph]"), input.files[0]);
}
