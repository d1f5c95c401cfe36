// An application that knows nothing of the interceptor: `node get.js ADDRESS PORT`; prints the body.
const http = require("http");
const [host, port] = process.argv.slice(2);
http.get({ host, port, path: "/books?id=7", headers: { "X-Asked": "yes" }, agent: false }, (response) => {
  response.pipe(process.stdout);
}).on("error", (error) => { console.error(error); process.exit(1); });
