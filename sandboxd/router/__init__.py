"""The process that moves bytes: accepts, asks `routing`, dials into envs, relays. It decides nothing by itself."""
