// The usual way to have servers on demand: a proxy that starts one for each new host name, waits until it listens, and passes
// requests on. Arguments: the listening port, the first port for servers, the filter's file, then the server's argv, in which
// @PORT@ stands for its port. Says "ready" once it listens. Every server is a child and ends with the proxy.
"use strict";
const http = require("http");
const net = require("net");
const fs = require("fs");
const { spawn } = require("child_process");

const [listen, first, filter, ...argv] = process.argv.slice(2);
let next = Number(first);
const servers = new Map();

function start() {
  const port = next++;
  const words = argv.map((word) => word.replaceAll("@PORT@", String(port)));
  const stdio = ["ignore", "ignore", "ignore"];
  let fd = -1;
  if (filter !== "-") {
    fd = fs.openSync(filter); // bwrap reads it from descriptor 9 to its end, so each has one of its own
    stdio.push("ignore", "ignore", "ignore", "ignore", "ignore", "ignore", fd);
  }
  spawn(words[0], words.slice(1), { stdio });
  if (fd >= 0) fs.closeSync(fd);
  return until(port).then(() => port);
}

function until(port) {
  return new Promise((resolve) => {
    const attempt = () => {
      const probe = net.connect(port, "127.0.0.1");
      probe.on("connect", () => (probe.destroy(), resolve()));
      probe.on("error", () => setTimeout(attempt, 2));
    };
    attempt();
  });
}

http
  .createServer((request, response) => {
    const key = request.headers.host;
    if (!servers.has(key)) servers.set(key, start());
    servers.get(key).then((port) => {
      const onward = http.request({ port, host: "127.0.0.1", path: request.url, headers: request.headers }, (answer) => {
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
      });
      onward.on("error", () => response.writeHead(502).end());
      request.pipe(onward);
    });
  })
  .listen({ port: Number(listen), host: "127.0.0.1", backlog: 1024 }, () => console.log("ready"));
