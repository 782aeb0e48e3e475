"""Where bytes should go and what may pass: HTTP framing, the table of routes, error pages, orders to the router. Pure."""
