// Unmodified express-session with connect-redis, as a JSON API that a test drives. OPTIONS is a JSON object: for each
// name the options of express-session (and `ttl`, that of connect-redis), served below `/<name>/`.
import { createRequire } from "node:module";

const require = createRequire(new URL("../../demo/express/package.json", import.meta.url));
const express = require("express");
const session = require("express-session");
const { RedisStore } = require("connect-redis");
const { createClient } = require("redis");

const { REDIS_URL, OPTIONS } = process.env;

const client = createClient({ url: REDIS_URL });
client.on("error", (error) => console.error(`redis: ${error.message}`));
await client.connect();

const app = express();
app.use(express.json({ strict: false, limit: "1mb" }));
for (const [name, { ttl, ...options }] of Object.entries(JSON.parse(OPTIONS))) {
  const store = new RedisStore({ client, ttl });
  const genid = (req) => req.get("x-sid") ?? crypto.randomUUID();
  app.use(`/${name}`, session({ store, genid, resave: false, saveUninitialized: false, ...options }), api(store));
}
app.use((error, req, res, next) => res.status(500).json({ error: error.message }));

function api(store) {
  const router = express.Router();
  const tell = (req, res) => res.json(seen(req));
  const then = (req, res, next) => (error) => (error ? next(error) : tell(req, res));
  router.get("/", tell);
  router.post("/set", (req, res) => tell(Object.assign(req.session, req.body) && req, res));
  router.post("/delete", (req, res) => {
    for (const key of req.body) delete req.session[key];
    tell(req, res);
  });
  router.post("/save", (req, res, next) => req.session.save(then(req, res, next)));
  router.post("/reload", (req, res, next) => req.session.reload(then(req, res, next)));
  router.post("/destroy", (req, res, next) => req.session.destroy(then(req, res, next)));
  router.post("/regenerate", (req, res, next) => req.session.regenerate(then(req, res, next)));
  router.post("/unset", (req, res) => {
    req.session = null;
    tell(req, res);
  });
  router.post("/max-age", (req, res) => {
    req.session.cookie.maxAge = req.body === null ? null : req.body * 1000;
    req.session.remembered = true; // Express saves no session of which the cookie alone has changed
    tell(req, res);
  });
  router.get("/ids", async (req, res) => res.json((await store.ids()).sort()));
  router.post("/clear", async (req, res) => res.json(await store.clear()));
  return router;
}

function seen({ session }) {
  if (!session) return null;
  const { cookie, ...data } = session;
  return { id: session.id, data, maxAge: cookie.originalMaxAge };
}

const server = app.listen(0, "127.0.0.1", (error) => {
  if (error) throw error;
  console.log(`listening on ${server.address().port}`);
});
