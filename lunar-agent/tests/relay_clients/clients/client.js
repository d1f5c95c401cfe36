// Node as it is: `client.js http|fetch PLAN`; as client.py.
"use strict";

const crypto = require("crypto");
const fs = require("fs");
const http = require("http");

function say(status, headers, body) {
  const sha256 = crypto.createHash("sha256").update(body).digest("hex");
  console.log(JSON.stringify({ status, headers, length: body.length, sha256 }));
}

const agent = new http.Agent({ keepAlive: true });

function byHttp(ask) {
  return new Promise((done, failed) => {
    const headers = { "x-trace": ask.trace };
    const body = ask.file && fs.readFileSync(ask.file);
    if (body && !ask.chunked) headers["Content-Length"] = body.length;
    const request = http.request(ask.url, { agent, method: ask.method, headers }, (response) => {
      const pieces = [];
      response.on("data", (piece) => pieces.push(piece));
      response.on("end", () => {
        const raw = response.rawHeaders;
        const pairs = raw.flatMap((name, i) => (i % 2 ? [] : [[name, raw[i + 1]]]));
        say(response.statusCode, pairs, Buffer.concat(pieces));
        done();
      });
      response.on("error", failed);
    });
    request.on("error", failed);
    if (body && ask.chunked) {
      for (let at = 0; at < body.length; at += 10_000) request.write(body.subarray(at, at + 10_000));
      request.end();
    } else {
      request.end(body || undefined);
    }
  });
}

async function byFetch(ask) {
  const headers = { "x-trace": ask.trace };
  let body = ask.file ? fs.readFileSync(ask.file) : undefined;
  if (body && ask.chunked) body = new Blob([body]).stream();
  const response = await fetch(ask.url, { method: ask.method, headers, body, duplex: "half" });
  say(response.status, [...response.headers], Buffer.from(await response.arrayBuffer()));
}

(async () => {
  const each = { http: byHttp, fetch: byFetch }[process.argv[2]];
  for (const ask of JSON.parse(fs.readFileSync(process.argv[3]))) await each(ask);
  process.exit(0);
})();
