// A receiver of webhooks for Node.js, without packages:
//
//     WEBHOOK_SECRET=whsec_... node receiver.mjs [PORT] [FILE]
//
// It checks the signature, drops doubles by event_id, stores every event, whatever its topic, as a line of FILE,
// and answers once the line is on the disk.

import { createHmac, timingSafeEqual } from "node:crypto";
import { existsSync, fsyncSync, openSync, readFileSync, writeSync } from "node:fs";
import { createServer } from "node:http";

const PORT = Number(process.argv[2] ?? 9000);
const FILE = process.argv[3] ?? "events.jsonl";
const SECRET = secretOf(process.env.WEBHOOK_SECRET ?? "");
const PATIENCE = 5 * 60; // seconds: an older request is somebody's copy

const known = new Set();
const before = existsSync(FILE) ? readFileSync(FILE, "utf8") : "";
for (const line of before.split("\n")) {
  try {
    known.add(JSON.parse(line).event_id);
  } catch {
    // A line that a crash cut off: its event comes again.
  }
}
const file = openSync(FILE, "a");
if (before) writeSync(file, "\n"); // ends such a line

function secretOf(text) {
  const encoded = text.replace(/^whsec_/, "");
  const isBase64 = /^[A-Za-z0-9+/]+={0,2}$/.test(encoded) && encoded.length % 4 === 0;
  const secret = Buffer.from(encoded, "base64"); // which reads anything
  if (isBase64 && secret.length >= 24) return secret; // anybody could sign with an empty one
  console.error("WEBHOOK_SECRET must be whsec_ and the base64 of 24 bytes or more");
  process.exit(1);
}

function isGenuine(headers, body) {
  const sentAt = headers["webhook-timestamp"] ?? "";
  if (!/^\d+$/.test(sentAt) || Math.abs(Date.now() / 1000 - Number(sentAt)) > PATIENCE) return false;
  const expected = createHmac("sha256", SECRET)
    .update(`${headers["webhook-id"]}.${sentAt}.`)
    .update(body)
    .digest();
  const given = (headers["webhook-signature"] ?? "").split(" "); // several while the secret is changed
  return given.some((each) => {
    const [version, value] = each.split(",");
    const signature = Buffer.from(value ?? "", "base64");
    return version === "v1" && signature.length === expected.length && timingSafeEqual(signature, expected);
  });
}

function store(events) {
  for (const event of events) {
    if (!known.has(event.event_id)) writeSync(file, JSON.stringify(event) + "\n");
  }
  fsyncSync(file);
  for (const event of events) known.add(event.event_id);
}

async function receive(request, response) {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  const body = Buffer.concat(pieces);
  if (request.method !== "POST" || request.url !== "/webhook") return response.writeHead(404).end();
  if (!isGenuine(request.headers, body)) return response.writeHead(401).end();
  const content = JSON.parse(body);
  store(content.events ?? [content]); // a batch, or one event
  response.writeHead(204).end();
}

const server = createServer((request, response) => {
  receive(request, response).catch((error) => {
    console.error(error);
    response.writeHead(500).end();
  });
});
server.listen(PORT, "127.0.0.1");
