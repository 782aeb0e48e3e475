"""Counts visits in redis. Believes that it owns port 5000 and that redis is on localhost:6379, and it is right."""

import os

from flask import Flask, jsonify
from redis import Redis

app = Flask(__name__)
store = Redis(host="localhost", port=6379, decode_responses=True)


@app.get("/")
def visit():
    """One more visit."""
    return jsonify(env=os.environ.get("SANDBOXD_ENV"), visits=store.incr("visits"))


@app.get("/health")
def health():
    """200 once redis answers."""
    store.ping()
    return "ok\n"


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(os.environ.get("PORT", "5000")), threaded=True)
