// As names.c: `node names.js FIRST COUNT SUFFIX HOW AT-A-TIME`. HOW: `lookup`, by the system's resolver as net.connect does it,
// or `c-ares`, Node's own, which sends all questions through one socket.
const dns = require("dns");
const net = require("net");

const [first, count, suffix, how, atATime] = process.argv.slice(2);
const end = Number(first) + Number(count);
let next = Number(first);

function call() {
  if (next === end) return;
  const host = `n${next++}.${suffix}`;
  const socket = net.connect({ host, port: 80, lookup: how === "c-ares" ? ares : dns.lookup });
  let line = "";
  socket.setEncoding("utf8").setTimeout(20000, () => socket.destroy(new Error("no answer")));
  socket.on("data", (text) => {
    line += text;
    if (line.endsWith("\n")) socket.destroy();
  });
  socket.on("error", (error) => { line = `failed: ${error}\n`; });
  socket.on("close", () => { process.stdout.write(line || "closed\n"); call(); });
}

function ares(name, options, then) {
  dns.resolve6(name, (error, found) => {
    if (error) return then(error);
    if (options.all) return then(null, found.map((address) => ({ address, family: 6 })));
    then(null, found[0], 6);
  });
}

for (let i = 0; i < Number(atATime); i++) call();
