// socket.io; with REDIS_URL also express-session and connect-redis, shared with its sockets as socket.io's guide has it.
import { createServer } from "node:http"
import express from "express"
import { Server } from "socket.io"

const app = express()
const http = createServer(app)
const io = new Server(http)

if (process.env.REDIS_URL) {
  const { default: session } = await import("express-session")
  const { RedisStore } = await import("connect-redis")
  const { createClient } = await import("redis")
  const client = createClient({ url: process.env.REDIS_URL })
  await client.connect()
  const sessions = session({ store: new RedisStore({ client }), secret: "benchmark", resave: false, saveUninitialized: false })
  app.use(sessions)
  io.engine.use(sessions)
}

app.get("/login", (request, response) => {
  Object.assign(request.session, { user: "fred", count: 0 })
  response.type("text").send("welcome")
})
app.get("/page", (request, response) => response.type("text").send(`hello ${request.session.user}, ${request.session.count}`))
app.get("/count", (request, response) => {
  request.session.count += 1
  response.type("text").send(`hello ${request.session.user}, ${request.session.count}`)
})
app.get("/write/:key", (request, response) => {
  request.session[request.params.key] = 1
  response.type("text").send("stored")
})
app.get("/keys", (request, response) =>
  response.type("text").send(String(Object.keys(request.session).filter(key => key.startsWith("key")).length)))

io.on("connection", socket => {
  socket.on("add", (a, b, reply) => reply(a + b))
  socket.on("echo", (value, reply) => reply(value))
  socket.on("publish", text => io.emit("message", text))
  const session = () => socket.request.session
  socket.on("read", reply => session().reload(error => { if (error) throw error; reply(session().count) }))
  socket.on("write", reply => session().reload(error => {
    if (error) throw error
    session().count += 1
    session().save(failure => { if (failure) throw failure; reply(session().count) })
  }))
})
http.listen({ host: "127.0.0.1", port: 0, backlog: 4096 }, () => console.log(`listening on ${http.address().port}`))
