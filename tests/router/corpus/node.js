// The second witness: node's own http server. Says in each answer what it understood, and on its second port what it saw.
const http = require("http"), net = require("net");
const [who, port, control] = process.argv.slice(2);
let seen = [], open = 0, waiting = [];

const server = http.createServer((request, response) => {
  const pieces = [];
  request.on("data", (piece) => pieces.push(piece));
  request.on("end", () => {
    const what = [request.method, request.url, Buffer.concat(pieces).toString("latin1")];
    seen.push(what);
    const body = Buffer.from(JSON.stringify({ who, what }));
    response.writeHead(200, { "Content-Length": body.length });
    response.end(body);
  });
});
server.on("connection", (socket) => {
  open += 1;
  socket.on("close", () => { open -= 1; tell(); });
});

// Answered once no connection is open: then nothing more can be seen.
function tell() {
  if (open) return;
  for (const socket of waiting.splice(0)) { socket.end(JSON.stringify(seen)); seen = []; }
}
server.listen(+port, "127.0.0.1", () => {
  net.createServer((socket) => { socket.on("error", () => {}); waiting.push(socket); tell(); }).listen(+control, "127.0.0.1", () => console.log("ready"));
});
