// Verifies webhook requests with third-party libraries, and sends them to the receiver of the docs.
// node check.mjs REQUESTS.json RECEIVER.mjs

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import http from "node:http";
import { createServer } from "node:net";

import { HTTP } from "cloudevents";
import { Webhook as StandardWebhook } from "standardwebhooks";
import { Webhook as SvixWebhook } from "svix";

const [requestsPath, receiverPath] = process.argv.slice(2);
const { secret, requests } = JSON.parse(readFileSync(requestsPath, "utf8"));

for (const { type, headers, body } of requests) {
  for (const Webhook of [StandardWebhook, SvixWebhook]) {
    new Webhook(secret).verify(body, headers);
    assert.throws(() => new Webhook(secret).verify(body + " ", headers));
  }
  const event = HTTP.toEvent({ headers, body });
  assert.equal(event.validate(), true);
  assert.deepEqual([event.id, event.type], [headers["webhook-id"], type]);
  assert.deepEqual(event.data, JSON.parse(body).data);
  console.log(`verified and parsed: ${type}`);
}

const port = await freePort();
const env = { ...process.env, WEBHOOK_SECRET: secret, PORT: String(port) };
const receiver = spawn(process.execPath, [receiverPath], { env, stdio: ["ignore", "pipe", "inherit"] });
let printed = "";
receiver.stdout.setEncoding("utf8").on("data", (text) => (printed += text));
try {
  for (const { headers, body } of [...requests, ...requests]) {
    assert.equal((await post(headers, body)).status, 204);
  }
  await breakOff();
  assert.equal((await post({ ...requests[0].headers, "webhook-signature": "v1,AAAA" }, requests[0].body)).status, 401);
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.equal(printed.trim().split("\n").length, new Set(requests.map(({ headers }) => headers["webhook-id"])).size);
  console.log("the receiver of docs/how-to/webhooks.md took each event once, and no forged one");
} finally {
  receiver.kill();
}

async function post(headers, body) {
  for (let tries = 0; ; tries++) {
    try {
      return await fetch(`http://127.0.0.1:${port}/hooks/comfyui`, { method: "POST", headers, body });
    } catch (error) {
      if (tries === 100) throw error; // it has not begun to listen
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

// The receiver must survive a sender that disconnects in the middle of a body.
function breakOff() {
  const { headers, body } = requests[0];
  return new Promise((resolve) => {
    const request = http.request({ port, method: "POST", headers: { ...headers, "content-length": body.length } });
    request.on("error", resolve).write(body.slice(0, 10), () => request.destroy(new Error("broken off")));
  });
}

function freePort() {
  return new Promise((resolve) => {
    const probe = createServer().listen(0, "127.0.0.1", () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
}
