/**
 * The browser's end of sstream: calls, events and channels over one websocket that comes back by itself.
 * All times are seconds.
 */

/** What a server offers, as `python -m sstream describe --typescript` writes it. Without it everything is `any`. */
export interface Api {
  /**
   * Methods by their full name: `"cart.add": (item: string, count?: number) => Promise<Record<string, number>>`;
   * one that streams returns an `AsyncIterable`.
   */
  methods: object;
  /** Arguments of events, e.g. `cart: [cart: Record<string, number>]`. */
  events: object;
  /** What `session_view` gives. */
  session: unknown;
}

export interface AnyApi {
  methods: Record<string, (...params: any[]) => any>;
  events: Record<string, any[]>;
  session: any;
}

export interface Options {
  /**
   * How long to wait before attempt n, counted from 0: `random() * min(max, min * 2 ** n)` seconds.
   * It is 0 again once a connection has lasted 10 seconds. Default: 0.1, 30, `Math.random`.
   */
  backoff?: { min?: number; max?: number; random?: () => number };
  /**
   * Seconds that a call may take, waiting for the connection included; `null` for no end here. Default: 30 here, and
   * what the method has there. Seconds that are set, here or at a call, are told to the server.
   */
  timeout?: number | null;
  /** How many calls may wait for the connection, and how many events for an iterator of a channel. Default: 1000. */
  maxQueue?: number;
  /** Subprotocols to offer. Default: `"sstream.v1.msgpack"`; with `"sstream.v1.json"` messages are readable text. */
  protocols?: string | string[];
  /** Another constructor with the interface of the browser's, e.g. one that sends a cookie from node. */
  WebSocket?: new (url: string, protocols: string[]) => any;
  /** Another `fetch`, for trading a ticket for a cookie. In node there is no cookie jar: bring one, if you need it. */
  fetch?: (url: URL, request: RequestInit) => Promise<{ ok: boolean; status: number }>;
}

export interface CallOptions {
  /** See {@link Options.timeout}. */
  timeout?: number | null;
  /** Cancels the call, here and on the server; it is rejected with the signal's reason. */
  signal?: AbortSignal;
  /**
   * Wait for the next connection if there is none, and *send the call again* if the connection is lost before the
   * reply: it may then run twice. Without it a call is sent at most once. Default: false. Of those that wait, the
   * first 64 are sent at once, and then 60 a second: a server closes whoever sends much more (4429).
   */
  queue?: boolean;
  /** A W3C trace context for the server. */
  traceparent?: string;
}

export interface StreamOptions {
  /** See {@link Options.timeout}; it counts for the whole stream. Default: no end. */
  timeout?: number | null;
  signal?: AbortSignal;
  /** How many items the server may send ahead. Default: 16. */
  credit?: number;
}

export type State = "connecting" | "connected" | "waiting" | "closed";

/** A snapshot: it never changes, there is a new one for each change. */
export interface Status {
  readonly state: State;
  /** The close code that led here; null while connecting and connected. */
  readonly code: number | null;
  /** Why, in words. */
  readonly reason: string;
  /** Seconds until the next attempt, while waiting; else null. */
  readonly retryIn: number | null;
}

/** A place in the history of a channel. */
export interface Position {
  offset: number;
  epoch: string;
}

/** How an event came. */
export interface Meta {
  channel?: string;
  offset?: number;
  epoch?: string;
}

export interface Subscription {
  /** Where the channel is now; undefined without a history. */
  offset?: number;
  epoch?: string;
  /** Whether all since the position that was asked for was delivered, before this; undefined without a history. */
  recovered?: boolean;
}

export interface ChannelEvent extends Meta {
  event: string;
  args: any[];
}

/** The other side refused the call. Codes: JSON-RPC 2.0's and sstream's own, e.g. 4003 forbidden. */
export class RPCError extends Error {
  constructor(code: number, message: string, data?: unknown);
  code: number;
  data: any;
}

/** The call took too long, by our clock or the server's; its code is 4000. */
export class TimeoutError extends RPCError {}

/** There is no connection (any more); whether a call that was under way has run is unknown. */
export class ClosedError extends Error {
  constructor(status: { code: number | null; reason: string });
  /** The close code: 1006 lost or not made, 4401 the session was ended, ... */
  code: number | null;
}

type Listener<Arguments extends unknown[]> = (...args: Arguments) => void;
type Tuple<T> = T extends unknown[] ? T : never;

interface Emitter<Events> {
  /** Call `listener` for each such event, with the event's arguments. Returns a function that ends this. */
  on<Name extends keyof Events>(event: Name, listener: Listener<Tuple<Events[Name]>>): () => void;
  once<Name extends keyof Events>(event: Name, listener: Listener<Tuple<Events[Name]>>): () => void;
  off<Name extends keyof Events>(event: Name, listener: Listener<Tuple<Events[Name]>>): void;
}

/** Names that are ours: an event of the server with such a name is seen by `"*"` alone. */
interface SocketEvents {
  /** Each new status; also told by the name of its state. */
  state: [status: Status];
  connecting: [status: Status];
  connected: [status: Status];
  waiting: [status: Status];
  closed: [status: Status];
  /** Something went wrong that no promise tells: a message that is none, a ticket that was refused. */
  error: [error: Error];
  /** Events of this channel were lost for good (null: events to the user, the socket or all): load the state anew. */
  gap: [channel: string | null];
  /** Every event of the server, by whatever way. */
  "*": [event: string, args: any[], meta: Meta];
}

interface ChannelEvents {
  /** Events were lost for good. */
  gap: [];
  /** The subscription ended, not by our wish: it was refused, maybe at a reconnect, or the socket was closed. */
  unsubscribed: [error: Error];
  "*": [event: string, args: any[], meta: Meta];
}

type Named<Events, Own> = Own & Omit<Events, keyof Own>;

export interface Channel<A extends Api = AnyApi> extends Emitter<Named<A["events"], ChannelEvents>> {
  readonly name: string;
  /** The last event that was delivered; null without a history. Keep it to go on from there after a reload. */
  readonly position: Position | null;
  /**
   * Subscribe, now and after every reconnect, and deliver what was missed since our position, or since `since`: once
   * and in order, before live events. Rejected if the server refuses, or the socket is closed for good.
   */
  subscribe(options?: { since?: Position }): Promise<Subscription>;
  unsubscribe(): Promise<void>;
  /** Publish in this channel, if the server lets us. */
  publish(event: string, ...args: unknown[]): Promise<any>;
  /** Who is here. */
  presence(): Promise<any>;
  /**
   * The events from now on, until `unsubscribe`. It does not subscribe: call `subscribe()` too, and begin to iterate
   * before you wait for that, if you want to see what was missed.
   */
  [Symbol.asyncIterator](): AsyncGenerator<ChannelEvent, void, undefined>;
}

type Params<F> = F extends (...params: infer P) => any ? P : never;
type Result<F> = F extends (...params: any[]) => infer R ? Promise<Awaited<R>> : never;
type Item<F> = F extends (...params: any[]) => AsyncIterable<infer I> ? I : any;
type Rest<F, O> = [] extends Params<F> ? [params?: Params<F>, options?: O] : [params: Params<F>, options?: O];

type Head<Name> = Name extends `${infer First}.${string}` ? First : Name;
type Below<First extends string, Methods> = {
  [Name in keyof Methods as Name extends `${First}.${infer Tail}` ? Tail : never]: Methods[Name];
};

/** `{"cart.add": F}` as `{cart: {add: F}}`, without what streams: that is for `stream`. */
type Nested<Methods> = string extends keyof Methods
  ? any
  : {
      [Name in keyof Methods as Head<Name>]: Name extends `${infer First}.${string}`
        ? Nested<Below<First, Methods>>
        : Methods[Name] extends (...params: any[]) => AsyncIterable<any>
          ? never
          : Methods[Name];
    };

type Heard<A extends Api> = Named<Named<A["events"], { session: [view: A["session"]] }>, SocketEvents>;

export interface Socket<A extends Api = AnyApi> extends Emitter<Heard<A>> {
  /** The absolute URL. */
  readonly url: string;
  readonly state: State;
  readonly status: Status;
  /** What the server shows of the session, always the newest; null if there is nothing. Event: `session`. */
  readonly session: A["session"];
  /** `s.rpc.cart.add("tea", 1)` is `s.call("cart.add", ["tea", 1])`. */
  readonly rpc: Nested<A["methods"]>;

  /** Resolves when the socket is connected; rejected when it is closed for good. */
  ready(options?: { signal?: AbortSignal }): Promise<this>;
  /**
   * Call a method of the server. Made while the socket is connecting, the call waits for that; while it is waiting,
   * the call is refused at once, but for `queue: true`.
   */
  call<Name extends keyof A["methods"]>(
    name: Name,
    ...rest: Rest<A["methods"][Name], CallOptions>
  ): Result<A["methods"][Name]>;
  /** Call without a reply. Returns whether it left: without a connection it is dropped. */
  notify<Name extends keyof A["methods"]>(name: Name, params?: Params<A["methods"][Name]>): boolean;
  /** Call a method that streams. Leaving the loop cancels it. The call is made when the iteration begins. */
  stream<Name extends keyof A["methods"]>(
    name: Name,
    ...rest: Rest<A["methods"][Name], StreamOptions>
  ): AsyncGenerator<Item<A["methods"][Name]>, void, undefined>;
  /**
   * Let the server call `fn`. Its `this.signal` is aborted when the server cancels the call or is gone. Throw an
   * `RPCError` to refuse; any other error is reported here and told as "internal error". Returns a function that takes
   * it back.
   */
  expose(name: string, fn: (this: { signal: AbortSignal }, ...params: any[]) => unknown): () => void;
  /** The channel of this name, always the same object. */
  channel(name: string): Channel<A>;
  /** Try to connect now: instead of waiting longer, or again after the end. Subscriptions do not survive the end. */
  open(): void;
  /** The end: calls are rejected, and nothing comes back by itself. */
  close(code?: number, reason?: string): void;
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * Open a socket that comes back by itself until it is closed, or the server says that there is no use (close codes 4400
 * to 4499 but for 4408 and 4429; 4401: the session was ended).
 *
 * @param url Where the server's `RPCHandler` is; may be relative to the page, e.g. `"/ws"`.
 */
export function connect<A extends Api = AnyApi>(url: string | URL, options?: Options): Socket<A>;
