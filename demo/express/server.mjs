// An ordinary Express application next door. It knows nothing of sstream: the same Redis, secret and cookie name are
// all it needs to read and write the Teahouse's sessions.
import { fileURLToPath } from "node:url";
import { RedisStore } from "connect-redis";
import express from "express";
import session from "express-session";
import { createClient } from "redis";
import { HEADERS, TEAS, page } from "./page.mjs";

const { REDIS_URL, SECRET, PORT, HOST = "127.0.0.1", DOORS = "{}" } = process.env;
const doors = JSON.parse(DOORS); // the ports of all processes by their names

const client = createClient({ url: REDIS_URL });
client.on("error", (error) => console.error(`redis: ${error.message}`));
await client.connect();

const app = express();
app.use((req, res, next) => {
  res.set(HEADERS);
  next();
});
app.use("/static", express.static(fileURLToPath(new URL("../static", import.meta.url))));
app.use(session({
  store: new RedisStore({ client, ttl: 2592000 }), // 30 days, as sstream has it; left out, a save here cuts it to one
  secret: SECRET,
  name: "connect.sid",
  resave: false,
  saveUninitialized: false,
}));
app.use(express.urlencoded({ extended: false }), fromHere);

app.get("/", async (req, res) => res.send(page(req, await client.ttl(`sess:${req.sessionID}`), doors)));

app.post("/cart/add", write((cart, tea) => ({ ...cart, [tea]: (cart[tea] ?? 0) + 1 })));
app.post("/cart/remove", write((cart, tea) => ({ ...cart, [tea]: (cart[tea] ?? 0) - 1 })));
app.post("/cart/clear", write(() => ({})));

function write(change) {
  return ({ session, path, body: { tea } = {} }, res, next) => {
    if (path !== "/cart/clear" && !Object.hasOwn(TEAS, tea)) return res.status(400).send("no such tea\n");
    const cart = Object.entries(change(session.cart ?? {}, tea)).filter(([, count]) => count > 0);
    session.cart = Object.fromEntries(cart);
    session.lastWriter = "express";
    // The browser may ask for the page the moment it hears of it, so the session is saved first.
    session.save((error) => (error ? next(error) : res.redirect(303, path === "/cart/add" ? `/#${tea}` : "/#cart")));
  };
}

// A form may come from our own pages only.
function fromHere(req, res, next) {
  const here = `${req.protocol}://${req.get("host")}`;
  if (req.method === "POST" && req.get("origin") !== here) res.sendStatus(403);
  else next();
}

const server = app.listen(PORT, HOST, (error) => {
  if (error) throw error;
  console.log(`listening on ${server.address().port}`);
});
