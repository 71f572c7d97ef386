// Builds vendor/msgpack.js: what codec.js uses of @msgpack/msgpack, in one small file, with a record of it beside.
// Run by `make vendor`, after `npm ci`; the same input gives the same bytes.
import { build } from "esbuild";
import { createHash } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join, relative } from "node:path";

const here = import.meta.dirname;
const source = join(here, "node_modules/@msgpack/msgpack");
const modules = join(source, "dist.esm");

// Methods that codec.js overrides or never reaches: they are left out.
const UNUSED = {
  Decoder:
    "constructor clone decode decodeMulti decodeAsync decodeArrayStream decodeStream decodeMultiAsync " +
    "appendBuffer createExtraByteError decodeExtension readArraySize readI64 readU64 stateIsMapKey",
  Encoder: "constructor clone encode encodeSharedRef encodeObject encodeExtension reinitializeState writeF32",
};

// Fields that only those methods use, or that codec.js has itself.
const IDLE = {
  Decoder:
    "extensionCodec context maxStrLength maxBinLength maxArrayLength maxMapLength maxExtLength keyDecoder " +
    "mapKeyConverter entered",
  Encoder: "extensionCodec context initialBufferSize pos view bytes entered",
};

// Options, and the one value that codec.js would give them.
const FIXED = {
  forceFloat32: false,
  forceIntegerToFloat: false,
  ignoreUndefined: true,
  maxDepth: 100,
  rawStrings: false,
  sortKeys: false,
  useBigInt64: false,
};

// What else differs from the original. Each of these stands there once.
const CHANGES = {
  Decoder: [
    // The original refuses a whole message for one key `__proto__`; here that pair is left out.
    [/^ +if \(object === "__proto__"\) \{\n.*\n +\}\n/m, ""],
    [/^( +)(state\.map\[state\.key\] = object;)/m, '$1if (state.key !== "__proto__") $2'],
    // No cache of keys: it is large.
    [/^import .*CachedKeyDecoder.*\n/m, ""],
    [/^const sharedCachedKeyDecoder = .*\n/m, ""],
    [/if \(.*keyDecoder\?\.canBeCached.*\{\n.*\n +\}\n +else \{\n(.*)\n +\}/, "$1"],
    // Lengths are limited by that of the message.
    [/^ +if \(size > this\.maxMapLength\) \{\n.*\n +\}\n/m, ""],
    [/^ +if \(size > this\.maxArrayLength\) \{\n.*\n +\}\n/m, ""],
    [/^ +if \(byteLength > this\.maxStrLength\) \{\n.*\n +\}\n/m, ""],
    [/^ +if \(byteLength > this\.maxBinLength\) \{\n.*\n +\}\n/m, ""],
    // A check of itself, and one for Internet Explorer.
    [/^ +const topStackState = .*\n +if .*\n.*\n +\}\n/m, ""],
    [/^try \{\n[^]*?^\}\ncatch [^]*?^\}\n/m, ""],
  ],
  // TextEncoder for short text too.
  "utils/utf8": [[/if \(str\.length > TEXT_ENCODER_THRESHOLD\) \{\n(.*)\n +\}\n +else \{\n.*\n +\}/, "$1"]],
  // Every engine of today has these.
  "utils/int": [
    [/(function setUint64.*\{\n)[^]*?^\}/m, "$1view.setBigUint64(offset, BigInt(value));\n}"],
    [/(function setInt64.*\{\n)[^]*?^\}/m, "$1view.setBigInt64(offset, BigInt(value));\n}"],
    [/(function getInt64.*\{\n)[^]*?^\}/m, "$1return Number(view.getBigInt64(offset));\n}"],
  ],
  "utils/prettyByte": [[/return `.*`/, "return byte"]],
  "utils/typedArrays": [[/^( +)else if \(isArrayBufferLike[^]*^    \}\n/m, ""]],
  timestamp: [
    [/`Unrecognized data size.*`/, '"no timestamp"'],
    [/^const TIMESTAMP32_MAX_SEC.*\n/m, ""],
    [/^const TIMESTAMP64_MAX_SEC.*\n/m, ""],
  ],
  DecodeError: [[/^export class [^]*^\}/m, "export const DecodeError = TypeError;"]],
};

// Names of methods and fields that no object of the platform has: they may be shortened.
const PRIVATE = new RegExp(
  "^((encode|decode)(Array|BigInt64|Binary|Boolean|Extension|Map|Nil|Number|NumberAsFloat|Object|String|Utf8String)|" +
    "(read|write)([IU](8|16|32|64)|F(32|64)|U8a|U64AsBigInt|I64AsBigInt|Big(Ui|I)nt64|HeadByte)|look(U8|U16|U32)|" +
    "push(Array|Map)State|do(Encode|DecodeSync)|countWithoutUndefined|ensureBufferSizeToWrite|extensionCodec|" +
    "getUninitializedStateFromPool|hasRemaining|headByte|initialBufferSize|keyDecoder|mapKeyConverter|max\\w+Length|" +
    "readCount|reinitializeState|resizeBuffer|setBuffer|stack(HeadPosition)?|stateIsMapKey|totalPos|" +
    "writeStringHeader|array|bytes|complete|pos|position|release|reset|top|view)$",
);

function change(text, what, by) {
  const found = text.match(new RegExp(what, what.flags + "g"))?.length ?? 0;
  if (found !== 1) throw new Error(`expected ${what} once, found it ${found} times`);
  return text.replace(what, by);
}

async function load(path) {
  const name = relative(modules, path).replace(/\.mjs$/, "");
  let text = await readFile(path, "utf8");
  for (const method of UNUSED[name]?.split(" ") ?? [])
    text = change(text, new RegExp(`^    (?:async )?\\*?${method}\\([^\\n]*\\{\\n[^]*?^    \\}\\n`, "m"), "");
  for (const field of IDLE[name]?.split(" ") ?? []) text = change(text, new RegExp(`^    ${field}( = .*)?;\n`, "m"), "");
  for (const [what, by] of CHANGES[name] ?? []) text = change(text, what, by);
  for (const [option, value] of Object.entries(FIXED))
    text = text.replace(new RegExp(`^ +${option};\n`, "m"), "").replaceAll(`this.${option}`, String(value));
  text = text.replaceAll(/`Too (large|long) .*`/g, '"too $1"');
  return { contents: text, loader: "js" };
}

const pick = {
  name: "pick",
  setup({ onLoad, onResolve }) {
    onResolve({ filter: /^@msgpack/ }, ({ path }) => ({ path: join(modules, `${path.split("/").at(-1)}.mjs`) }));
    onLoad({ filter: /\.mjs$/ }, ({ path }) => load(path));
  },
};

const { version, license } = JSON.parse(await readFile(join(source, "package.json"), "utf8"));
const { outputFiles } = await build({
  absWorkingDir: here,
  entryPoints: ["codec.js"],
  bundle: true,
  minify: true,
  mangleProps: PRIVATE,
  format: "esm",
  target: "es2022",
  legalComments: "none",
  banner: { js: `/*! @msgpack/msgpack ${version}, ${license}, see LICENSE; made from ../codec.js by ../vendor.mjs */` },
  plugins: [pick],
  write: false,
});
const [{ contents }] = outputFiles;
const record = {
  name: "@msgpack/msgpack",
  version,
  license,
  source: "https://github.com/msgpack/msgpack-javascript",
  sha256: createHash("sha256").update(contents).digest("hex"),
};

const target = process.argv[2] ?? join(here, "vendor"); // another directory: to compare
await mkdir(target, { recursive: true });
await writeFile(join(target, "msgpack.js"), contents);
await writeFile(join(target, "msgpack.json"), JSON.stringify(record, null, 2) + "\n");
await writeFile(join(target, "LICENSE"), await readFile(join(source, "LICENSE")));
