// Follows the event streams of the API, and reads the parts of the page that an event changes anew. Where a stream is
// refused or breaks, its parts are read every few seconds until it is back.
"use strict";

const POLL_MS = 3000, REFRESH_MS = 700, RETRY_MS = 30000, TICK_MS = 1000, MOST_ROWS = 50;
const EVENTS = ["sync", "status", "output", "progress", "node", "preview"];
const PICTURES = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/avif"];
const followers = new Map();
const refreshes = new Map();

class Follower {
  constructor(path, since) {
    this.path = path;
    this.since = since || "";
    this.downAt = Date.now();
    this.polledAt = Date.now();
    this.latest = {};
    this.nodes = new Map();
    this.attempt = null;
    this.connect();
  }

  connect() {
    this.source = new EventSource(this.since ? `${this.path}?since=${encodeURIComponent(this.since)}` : this.path);
    this.source.onopen = () => { this.downAt = null; };
    this.source.onerror = () => { this.downAt ??= Date.now(); };
    for (const name of EVENTS) this.source.addEventListener(name, (event) => this.take(name, event));
  }

  parts() {
    return [...document.querySelectorAll("[data-stream]")].filter((part) => part.dataset.stream === this.path);
  }

  take(name, event) {
    this.since = event.lastEventId || this.since;
    const data = JSON.parse(event.data);
    if (data.attempt !== undefined && data.attempt !== this.attempt) {
      this.attempt = data.attempt;
      this.latest = {};
      this.nodes.clear();
    }
    this.latest[name] = data;
    if (name === "node") this.note(data);
    for (const part of this.parts()) {
      if (part.dataset.events.split(" ").includes(name)) refresh(part);
    }
    this.show();
  }

  note(data) {
    const node = this.nodes.get(data.node_id) || { began: performance.now(), ended: null };
    if (data.state === "started") node.ended = null;
    else node.ended ??= performance.now();
    this.nodes.delete(data.node_id);
    this.nodes.set(data.node_id, node);
  }

  // Also after a part was read anew, which knows nothing of what the stream sent before.
  show() {
    for (const part of this.parts()) {
      const at = (name) => part.querySelector(`[data-live="${name}"]`);
      if (!at("bar")) continue;
      if (this.latest.progress) showProgress(at("bar"), at("text"), this.latest.progress);
      if (this.latest.preview) showPreview(at("preview"), this.latest.preview);
      if (this.nodes.size) showNodes(at("nodes"), this.nodes);
    }
    if (this.latest.progress) markGraph(this.latest.progress.progress_details.current_node);
  }

  // Once a second: reads the parts while the stream is down, and asks for the stream again from time to time.
  tick(now) {
    if (this.downAt === null || now - this.downAt < POLL_MS) return;
    if (now - this.polledAt >= POLL_MS) {
      this.polledAt = now;
      this.parts().forEach(refresh);
    }
    if (this.source.readyState === EventSource.CLOSED && now - this.downAt >= RETRY_MS) {
      this.downAt = now;
      this.connect();
    }
  }
}

// The drawing of the graph is as old as the page: marks the node that runs, and those that have made outputs since.
function markGraph(current) {
  const makers = [...document.querySelectorAll("[data-made-by]")].map((output) => output.dataset.madeBy);
  for (const node of document.querySelectorAll("svg [data-node]")) {
    // On the editor's canvas the box of a subgraph stands for all nodes inside it, such as 12:5 for 12.
    const has = (id) => id === node.dataset.node || id?.startsWith(`${node.dataset.node}:`);
    node.classList.toggle("current", Boolean(has(current)));
    if (makers.some(has)) node.classList.add("output");
  }
}

function showProgress(bar, text, data) {
  const { nodes_completed: completed, nodes_total: total, current_node: node, step } = data.progress_details;
  bar.value = data.progress;
  text.textContent = [
    `${data.progress} %`, total && `${completed} of ${total} nodes`, node && `node ${node}`, step && `step ${step}`,
  ].filter(Boolean).join(" · ");
}

function showPreview(picture, data) {
  if (!PICTURES.includes(data.content_type) || !/^[A-Za-z0-9+/]+={0,2}$/.test(data.data_base64)) return;
  picture.src = `data:${data.content_type};base64,${data.data_base64}`;
  picture.hidden = false;
}

function showNodes(table, nodes) {
  table.hidden = false;
  const drawn = new Map([...document.querySelectorAll("svg [data-node]")].map((one) => [one.dataset.node, one]));
  table.tBodies[0].replaceChildren(...[...nodes].slice(-MOST_ROWS).map(([id, node]) => {
    const row = document.createElement("tr");
    const name = Object.assign(document.createElement("th"), { scope: "row" });
    const title = drawn.get(id)?.querySelector(".title");
    name.append(Object.assign(document.createElement("code"), { textContent: id }));
    if (title) name.append(` ${title.textContent}`);
    const time = row.insertCell();
    time.textContent = duration(((node.ended ?? performance.now()) - node.began) / 1000);
    if (node.ended === null) row.className = "current";
    row.prepend(name);
    return row;
  }));
}

function duration(seconds) {
  const whole = Math.floor(seconds), minutes = Math.floor(whole / 60);
  if (minutes === 0) return `${whole} s`;
  return minutes < 60 ? `${minutes} min ${whole % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

// One request for a part at a time, at most one each `data-pause`. An event that comes meanwhile causes one more.
function refresh(part) {
  const state = refreshes.get(part.id) || { isWaiting: false, doneAt: 0, running: Promise.resolve() };
  refreshes.set(part.id, state);
  if (state.isWaiting) return;
  state.isWaiting = true;
  const pause = Math.max(0, state.doneAt + Number(part.dataset.pause || REFRESH_MS) - Date.now());
  setTimeout(() => {
    state.running = state.running.then(async () => {
      state.isWaiting = false;
      const now = document.getElementById(part.id);
      if (!now?.dataset.part) return;
      await htmx.ajax("GET", now.dataset.part, { source: now, target: now, swap: "outerHTML" }).catch(() => {});
      state.doneAt = Date.now();
    });
  }, pause);
}

// A browser has six connections to a host, so a hidden page holds none.
function reconcile() {
  const wanted = new Map();
  if (!document.hidden) {
    for (const part of document.querySelectorAll("[data-stream]")) {
      wanted.set(part.dataset.stream, wanted.get(part.dataset.stream) || part.dataset.since);
    }
  }
  for (const [path, follower] of followers) {
    if (wanted.has(path)) continue;
    follower.source.close();
    followers.delete(path);
    if (!document.hidden) markGraph(null);
  }
  for (const [path, since] of wanted) {
    if (followers.has(path)) followers.get(path).show();
    else followers.set(path, new Follower(path, since));
  }
}

function tick() {
  const now = Date.now();
  if (!document.hidden) for (const follower of followers.values()) { follower.tick(now); follower.show(); }
  for (const text of document.querySelectorAll("[data-elapsed]")) {
    text.began ??= performance.now() - 1000 * Number(text.dataset.elapsed);
    text.textContent = duration((performance.now() - text.began) / 1000);
  }
}

document.addEventListener("visibilitychange", () => {
  reconcile();
  if (!document.hidden) document.querySelectorAll("[data-stream]").forEach(refresh);
});
document.addEventListener("htmx:afterSettle", reconcile);
// What is gone is not read again.
document.addEventListener("htmx:responseError", (event) => {
  if ([404, 410].includes(event.detail.xhr.status)) {
    event.detail.elt.removeAttribute("data-stream");
    reconcile();
  }
});
setInterval(tick, TICK_MS);
reconcile();
