"""The control protocol as data: messages, frames, envelopes, and the interface text. No sockets."""
