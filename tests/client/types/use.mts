// How an application uses the types; each @ts-expect-error is a mistake that they must find.
import { ClosedError, RPCError, TimeoutError, connect } from "../../../sstream/client/sstream.js";
import type { Channel, Socket, Status, Subscription } from "../../../sstream/client/sstream.js";

interface Cart {
  [tea: string]: number;
}

interface Shop {
  methods: {
    add: (a: number, b: number) => Promise<number>;
    hello: () => Promise<string>;
    "cart.add": (item: string, count?: number) => Promise<Cart>;
    "cart.orders.watch": (n: number) => AsyncIterable<Cart>;
    "cart.orders.last": () => Promise<Cart | null>;
  };
  events: { cart: [cart: Cart]; typing: [] };
  session: { user: string } | null;
}

const s = connect<Shop>("/ws", { backoff: { min: 1, max: 5 }, timeout: null, maxQueue: 10 });

// Calls
const sum: Promise<number> = s.call("add", [1, 2], { queue: true, timeout: 5, signal: AbortSignal.timeout(1) });
const text: Promise<string> = s.call("hello");
const cart: Promise<Cart> = s.call("cart.add", ["tea"]);
const left: boolean = s.notify("cart.add", ["tea", 2]);
// @ts-expect-error its arguments are missing
s.call("add");
// @ts-expect-error of the wrong type
s.call("add", ["1", 2]);
// @ts-expect-error no such method
s.call("nothing");
// @ts-expect-error a number, and not text
const wrong: Promise<string> = s.call("add", [1, 2]);
// @ts-expect-error no such option
s.call("hello", [], { retries: 3 });

// rpc
const again: Promise<Cart> = s.rpc.cart.add("tea", 1);
const last: Promise<Cart | null> = s.rpc.cart.orders.last();
// @ts-expect-error no such method
s.rpc.cart.remove("tea");
// @ts-expect-error a stream is read by stream()
s.rpc.cart.orders.watch(1);

// Streams
for await (const each of s.stream("cart.orders.watch", [3], { credit: 4 })) each["tea"]?.toFixed();

// Events and states
const off: () => void = s.on("cart", (cart) => Object.keys(cart));
s.once("session", (view) => view?.user.trim());
s.on("waiting", ({ reason, retryIn }) => [reason.trim(), retryIn?.toFixed()]);
s.on("error", (error) => error.message);
s.on("gap", (channel) => channel?.trim());
s.on("*", (event, args, meta) => [event.trim(), args.length, meta.offset?.toFixed()]);
// @ts-expect-error no such event
s.on("carts", () => {});
// @ts-expect-error its argument is a cart
s.on("cart", (cart: string) => cart);
const status: Status = s.status;
// @ts-expect-error a snapshot does not change
status.state = "closed";
const user: string | undefined = s.session?.user;

// Channels
const channel: Channel<Shop> = s.channel("lobby");
channel.on("cart", (cart) => Object.keys(cart));
channel.on("unsubscribed", (error) => error.message);
const subscription: Subscription = await channel.subscribe({ since: channel.position ?? { offset: 1, epoch: "x" } });
subscription.recovered === false;
await channel.publish("said", "hello", 1);
for await (const { event, args, offset } of channel) [event.trim(), args.length, offset?.toFixed()];
await channel.unsubscribe();

// Without an Api everything goes
const any: Socket = connect(new URL("wss://tea.example/ws"), { WebSocket, fetch, protocols: "sstream.v1.json" });
(await any.call("whatever", [1], { timeout: 2 })).some.thing;
await any.rpc.cart.orders.add("tea", 1);
any.on("anything", (a, b) => [a, b]);
const takeBack: () => void = any.expose("confirm", function (text: string) {
  return this.signal.aborted ? null : text;
});

// Errors
try {
  await any.ready({ signal: AbortSignal.timeout(5) });
} catch (error) {
  if (error instanceof TimeoutError) error.code.toFixed();
  else if (error instanceof RPCError) [error.code.toFixed(), error.message, error.data];
  else if (error instanceof ClosedError) error.code?.toFixed();
}

{
  await using short = await connect("/ws").ready();
  short.close(1000, "done");
}

export { again, cart, last, left, off, sum, takeBack, text, user, wrong };
