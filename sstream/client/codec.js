// What sstream.js uses of @msgpack/msgpack: vendor.mjs builds vendor/msgpack.js from this file.
import { Decoder } from "@msgpack/msgpack/Decoder";
import { Encoder } from "@msgpack/msgpack/Encoder";
import { decodeTimestampExtension } from "@msgpack/msgpack/timestamp";

const TIMESTAMP = -1;

/** Writes what JSON.stringify would, and bytes and bigints besides. */
class Writer extends Encoder {
  pos = 0;
  view = new DataView(new ArrayBuffer(2048));
  bytes = new Uint8Array(this.view.buffer);

  encodeObject(value, depth) {
    if (typeof value === "bigint") {
      if (value !== (value < 0n ? BigInt.asIntN(64, value) : BigInt.asUintN(64, value)))
        throw new RangeError(`${value} does not fit in 64 bits`);
      this.encodeBigInt64(value);
    } else if (Array.isArray(value)) this.encodeArray(value, depth);
    else if (ArrayBuffer.isView(value)) this.encodeBinary(value);
    else if (value instanceof ArrayBuffer) this.encodeBinary(new Uint8Array(value));
    else if (typeof value !== "object") throw new TypeError(`a ${typeof value} cannot be sent`);
    else if (typeof value.toJSON === "function") this.doEncode(value.toJSON(), depth + 1);
    else this.encodeMap(value, depth);
  }

  // Half an emoji would make the whole message bad UTF-8.
  encodeString(text) {
    super.encodeString(text.toWellFormed());
  }
}

/** Reads integers as numbers where they are safe, else as bigints, and timestamps as Date. */
class Reader extends Decoder {
  mapKeyConverter = String;

  readU64() {
    return exact(this.readU64AsBigInt());
  }

  readI64() {
    return exact(this.readI64AsBigInt());
  }

  decodeExtension(size, headOffset) {
    const type = this.view.getInt8(this.pos + headOffset);
    const data = this.decodeBinary(size, headOffset + 1);
    return type === TIMESTAMP ? decodeTimestampExtension(data) : { type, data };
  }
}

function exact(big) {
  const number = Number(big);
  return Number.isSafeInteger(number) ? number : big;
}

let idle = new Writer();
const reader = new Reader();

/** The bytes of a value. */
export function encode(value) {
  const writer = idle ?? new Writer(); // a toJSON may encode something itself
  idle = null;
  writer.pos = 0;
  try {
    writer.doEncode(value, 1);
    return writer.bytes.slice(0, writer.pos);
  } finally {
    idle = writer;
  }
}

/** The value of exactly these bytes. A key `__proto__` is left out. */
export function decode(bytes) {
  reader.reinitializeState();
  reader.setBuffer(bytes);
  const value = reader.doDecodeSync();
  if (reader.hasRemaining(1)) throw new RangeError("more than one value");
  return value;
}
