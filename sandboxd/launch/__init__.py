"""Makes processes behind walls: launcher, child and init (stdlib, `errors` and `kernel` only), and the daemon's side of them."""
