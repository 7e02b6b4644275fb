// What @comfyorg/sdk, Comfy Cloud's client for TypeScript, does with an API: run by tests/interop/comfy.py.
// It prints `cut` where the proxy behind COMFY_CUT_URL shall break its connections.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";

import { Comfy } from "@comfyorg/sdk";

const apiKey = process.env.COMFY_API_KEY;
const photo = readFileSync("photo.png");

const edit = (image) => ({
  1: { class_type: "LoadImage", inputs: { image } },
  2: { class_type: "ImageInvert", inputs: { image: ["1", 0] } },
  3: { class_type: "SaveImage", inputs: { images: ["2", 0], filename_prefix: "edited" } },
});
const slow = (steps, seconds) => ({
  1: { class_type: "EmptyImage", inputs: { width: 64, height: 64, batch_size: 1, color: 255 } },
  2: { class_type: "LiteSlowSteps", inputs: { image: ["1", 0], steps, seconds_per_step: seconds, preview: true } },
  3: { class_type: "SaveImage", inputs: { images: ["2", 0], filename_prefix: "slow" } },
});

async function assetsAreSentOnce(client) {
  const asset = client.assets.fromBytes(photo, { filename: "folder/photo.png" });
  const id = await asset.commit();
  const again = client.assets.fromBytes(photo, { filename: "folder/photo.png" });
  assert.equal(await again.commit(), id);
  assert.equal(again.createdNew, false);
}

async function aJobTakesAnAsset(client) {
  const workflow = client.workflows.fromJson(edit(""));
  workflow.setInput("1", "image", client.assets.fromBytes(photo, { filename: "folder/photo.png" }));
  const job = await client.run(workflow);
  await job.wait(120_000);
  assert.equal(job.status, "succeeded", JSON.stringify(job.error));
  const [output] = job.getOutputs("3");
  const bytes = await output.toBytes();
  assert.deepEqual([...bytes.slice(1, 4)], [0x50, 0x4e, 0x47]);
  const { url } = await output.getDownloadUrl();
  assert.deepEqual(new Uint8Array(await (await fetch(url)).arrayBuffer()), new Uint8Array(bytes));
  assert.equal((await job.getWorkflow()).format, "api");
}

async function eventsOf(client, atProgress) {
  const job = await client.submit(client.workflows.fromJson(slow(16, 0.25)));
  const seen = [];
  for await (const event of job.events()) {
    seen.push(event);
    if (event.kind === "progress") atProgress(seen.filter((one) => one.kind === "progress").length);
  }
  assert.deepEqual([seen.at(-1).kind, seen.at(-1).status], ["statusChange", "succeeded"]);
  assert.ok(seen.slice(0, -1).some((event) => event.kind === "outputReady"));
  return seen;
}

async function eventsComeInOrder(client) {
  const seen = await eventsOf(client, () => {});
  const preview = seen.find((event) => event.kind === "preview");
  assert.deepEqual([...preview.data.slice(0, 3)], [0xff, 0xd8, 0xff]);
}

async function aStreamThatIsCutGoesOn() {
  const before = process.env.COMFY_BASE_URL;
  process.env.COMFY_BASE_URL = process.env.COMFY_CUT_URL;
  try {
    await eventsOf(new Comfy({ apiKey }), (count) => count === 2 && console.log("cut"));
  } finally {
    process.env.COMFY_BASE_URL = before;
  }
}

async function jobsAreCancelled(client) {
  const job = await client.submit(client.workflows.fromJson(slow(200, 0.1)));
  assert.ok(["canceling", "canceled"].includes((await job.cancel()).status));
  assert.equal((await job.wait(60_000)).status, "canceled");
}

async function refusalsHaveTheirClasses(client) {
  const submit = (graph, options) => client.submit(client.workflows.fromJson(graph), options);
  const idempotencyKey = randomUUID();
  await submit(slow(1, 0.1), { idempotencyKey });
  const unknown = { __type: "core/ASSET", info: { id: randomUUID() } };
  for (const [call, name, code] of [
    [() => submit({ 1: { class_type: "NoSuchNode", inputs: {} } }), "InvalidWorkflow", "invalid_workflow"],
    [() => submit({ nodes: [], links: [] }), "WorkflowFormatUi", "workflow_format_ui"],
    [() => submit(edit(unknown)), "MissingAsset", "missing_asset"],
    [() => submit(slow(1, 0.1), { idempotencyKey }), "IdempotencyKeyReuse", "idempotency_key_reuse"],
    [() => client.jobs.get(randomUUID()), "NotFound", "not_found"],
    [() => new Comfy({ apiKey: "wrong" }).jobs.get(randomUUID()), "Unauthorized", "unauthorized"],
  ]) {
    await assert.rejects(call, (error) => error.constructor.name === name && error.code === code);
  }
}

const client = new Comfy({ apiKey });
for (const step of [
  assetsAreSentOnce,
  aJobTakesAnAsset,
  eventsComeInOrder,
  aStreamThatIsCutGoesOn,
  jobsAreCancelled,
  refusalsHaveTheirClasses,
]) {
  await step(client);
  console.log(`@comfyorg/sdk: ${step.name.replaceAll(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)}`);
}
