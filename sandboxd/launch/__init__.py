"""Makes processes behind walls: launcher, child and init (stdlib, `errors`, `kernel`), and the daemon's side of them."""
