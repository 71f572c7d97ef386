// A page of Express that writes one key of its session: express-session and connect-redis as their own guides have them.
import { createRequire } from "node:module"
const load = createRequire(new URL("../demo/express/package.json", import.meta.url))
const express = load("express")
const session = load("express-session")
const { RedisStore } = load("connect-redis")
const { createClient } = load("redis")

const client = createClient({ url: process.env.REDIS_URL })
await client.connect()
const app = express()
app.use(session({ store: new RedisStore({ client }), secret: "benchmark", resave: false, saveUninitialized: false }))
app.get("/write/:key", (request, response) => {
  request.session[request.params.key] = 1
  response.end("stored")
})
app.get("/count", (request, response) => {
  response.json(Object.keys(request.session).filter(key => key.startsWith("key")).length)
})
const server = app.listen(0, "127.0.0.1", () => console.log(`listening on ${server.address().port}`))
