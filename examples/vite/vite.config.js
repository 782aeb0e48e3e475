import { defineConfig } from "vite";

// The port is fixed: in its own network nobody else can have taken it. The page is served under NAME.localhost, and the
// hot-reload WebSocket goes to where the page came from, through the router.
export default defineConfig({
  server: { host: "127.0.0.1", port: 3000, strictPort: true },
  cacheDir: ".vite",
});
