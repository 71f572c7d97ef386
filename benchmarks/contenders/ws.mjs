// ws with msgpackr.
import { Packr, Unpackr } from "msgpackr"
import { WebSocketServer } from "ws"

const methods = { add: (a, b) => a + b, echo: value => value }
const packr = new Packr({ useRecords: false })
const unpackr = new Unpackr({ useRecords: false })
const server = new WebSocketServer({ host: "127.0.0.1", port: 0, backlog: 4096, path: "/ws", perMessageDeflate: false })
server.on("connection", socket => {
  socket.on("message", data => {
    const message = unpackr.unpack(data)
    if (message[0] === 2) {
      const event = packr.pack([2, "message", message[2]])
      for (const subscriber of server.clients) subscriber.send(event)
      return
    }
    const [, id, name, params] = message
    socket.send(packr.pack([1, id, null, methods[name](...params)]))
  })
})
server.on("listening", () => console.log(`listening on ${server.address().port}`))
