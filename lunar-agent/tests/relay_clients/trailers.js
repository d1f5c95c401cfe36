// Sends a request with a trailer, prints the answer's body and its trailers. `trailers.js HOST`
"use strict";

const http = require("http");
const options = { host: process.argv[2], path: "/trailers", method: "POST", headers: { Trailer: "X-Digest", "x-trace": "trailers-" } };
const request = http.request(options, (response) => {
  let body = "";
  response.on("data", (piece) => (body += piece));
  response.on("end", () => console.log(JSON.stringify([JSON.parse(body), response.rawTrailers])));
});
request.write("hello");
request.addTrailers({ "X-Digest": "abc" });
request.end();
