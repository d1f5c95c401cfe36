// A provider on port 80 of every address. It prints each request as a line of JSON: where it came from, its first line and
// its headers as they were.
//
//   GET /bytes?n=N      N bytes
//   PUT, POST /digest   how many bytes came, and their SHA-256
//   GET /status?n=N     that status
//   GET /events         server-sent events: the next one when somebody asks for /next
//   POST /trailers      the trailers that came, and one back
"use strict";

const http = require("http");
const crypto = require("crypto");
const { pipeline, Readable } = require("stream");

const BLOCK = 1 << 20;
const block = Buffer.alloc(BLOCK);
for (let i = 0; i < BLOCK; i++) block[i] = (i * 31 + (i >> 8)) & 255;

// Blocks that differ, so that one lost, moved or repeated shows.
function* bytes(n) {
  for (let at = 0; at < n; at += BLOCK) {
    const piece = Buffer.from(block);
    piece.writeUInt32BE(at / BLOCK, 0);
    yield piece.subarray(0, Math.min(BLOCK, n - at));
  }
}

let waiting = [];

function answer(request, response) {
  const url = new URL(request.url, "http://provider");
  const n = Number(url.searchParams.get("n"));
  response.sendDate = false;
  const headers = ["X-Mixed-Case", "Yes", "Set-Cookie", "a=1", "Set-Cookie", "b=2; Path=/", "x-empty", ""];
  const end = (status, body) => {
    response.writeHead(status, [...headers, "Content-Length", String(Buffer.byteLength(body))]);
    response.end(request.method === "HEAD" ? undefined : body);
  };
  switch (url.pathname) {
    case "/bytes":
      if (!url.searchParams.has("chunked")) headers.push("Content-Length", String(n));
      response.writeHead(200, [...headers, "Content-Type", "application/octet-stream"]);
      if (request.method === "HEAD") return response.end();
      return pipeline(Readable.from(bytes(n)), response, () => {});
    case "/digest": {
      const hash = crypto.createHash("sha256");
      let length = 0;
      request.on("data", (piece) => {
        hash.update(piece);
        length += piece.length;
      });
      return request.on("end", () => end(200, JSON.stringify({ length, sha256: hash.digest("hex") })));
    }
    case "/status":
      if (n !== 204 && n !== 304) return end(n, `status ${n}`);
      response.writeHead(n, headers);
      return response.end();
    case "/events": {
      response.writeHead(200, [...headers, "Content-Type", "text/event-stream"]);
      let number = 0;
      const next = () => response.write(`data: ${number++}\n\n`);
      waiting.push(next);
      request.on("close", () => (waiting = waiting.filter((one) => one !== next)));
      return next();
    }
    case "/next":
      waiting.forEach((next) => next());
      return end(200, String(waiting.length));
    case "/trailers":
      return request.resume().on("end", () => {
        response.writeHead(200, [...headers, "Trailer", "X-Back", "Content-Type", "application/json"]);
        response.write(JSON.stringify(request.rawTrailers));
        response.addTrailers({ "X-Back": "there" });
        response.end();
      });
    default:
      return end(200, JSON.stringify({ peer: `${request.socket.remoteAddress}:${request.socket.remotePort}` }));
  }
}

function heard(request, response) {
  const { remoteAddress: from } = request.socket;
  const line = `${request.method} ${request.url}`;
  console.log(JSON.stringify({ from, line, version: request.httpVersion, headers: request.rawHeaders }));
  answer(request, response);
}

const server = http.createServer(heard);
server.on("checkContinue", (request, response) => {
  response.writeContinue();
  heard(request, response);
});
server.keepAliveTimeout = 60_000;
server.listen({ host: "203.0.113.10", port: 80 }, () => {
  const six = http.createServer(heard);
  six.keepAliveTimeout = 60_000;
  six.listen({ host: "2001:db8::10", port: 80 }, () => console.log("ready"));
});
