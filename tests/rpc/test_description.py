"""What is told to others about methods, events and types."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sstream.rpc.description import Description
from tests.rpc.described import Admin, Live

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "sstream" / "client"


@pytest.fixture(scope="module")
def description() -> Description:
    return Description({"/ws": Live})


# JSON


@pytest.fixture(scope="module")
def written(description: Description) -> dict[str, Any]:
    # Through text: what is not JSON fails here.
    return json.loads(json.dumps(description.json()))


def test_json_has_each_method_but_not_those_of_the_protocol(written):
    [socket] = written["sockets"]

    assert (socket["path"], socket["handler"], socket["doc"]) == ("/ws", "Live", "The shop's socket.")
    assert list(socket["methods"]) == [
        "anything",
        "cart.add",
        "cart.shapes",
        "cart.tree",
        "nothing",
        "strange",
        "ticks",
    ]


def test_json_tells_all_about_a_method(written):
    assert written["sockets"][0]["methods"]["cart.add"] == {
        "doc": "Put an item into the cart.\n\nThe ``count`` counts. */",
        "kind": "call",
        "params": [
            {"name": "item", "schema": {"$ref": "#/$defs/Item"}, "required": True},
            {"name": "count", "schema": {"type": "integer"}, "required": False, "default": 1},
            {"name": "notes", "schema": {"anyOf": [{"type": "string"}, {"type": "integer"}]}, "variadic": True},
        ],
        "result": {"type": "object", "additionalProperties": {"$ref": "#/$defs/Item"}},
        "middleware": ["load_session", "rate_limit"],
        "detached": False,
    }


def test_json_tells_a_streams_items(written):
    method = written["sockets"][0]["methods"]["ticks"]

    assert method["kind"] == "stream"
    assert method["items"]["prefixItems"][0] == {"type": "integer"}
    assert "result" not in method


def test_json_tells_the_timeout_where_a_method_has_its_own(written):
    methods = written["sockets"][0]["methods"]

    assert "timeout" not in methods["nothing"]
    assert methods["cart.tree"]["timeout"] == 5
    assert methods["cart.shapes"]["timeout"] is None
    assert methods["cart.tree"]["detached"] is True


def test_json_says_anything_where_there_is_no_type(written):
    methods = written["sockets"][0]["methods"]

    assert [param["schema"] for param in methods["anything"]["params"]] == [{}, {}]
    assert "default" not in methods["anything"]["params"][1]
    assert methods["strange"]["result"] == {}


def test_json_has_events_and_the_session(written):
    [socket] = written["sockets"]

    assert {name: len(event["params"]) for name, event in socket["events"].items()} == {
        "cart": 1,
        "closed": 0,
        "moved": 2,
    }
    assert socket["session"] == {"anyOf": [{"type": "object"}, {"type": "null"}]}


def test_json_defines_shared_types_once(written):
    assert written["$defs"]["Item"]["description"] == "One line of a cart."
    assert {"Item", "Color", "Point", "Tree", "Pair"} <= set(written["$defs"])


# TypeScript


def test_typescript_is_as_written_by_hand(description):
    assert description.typescript() == (ROOT / "tests" / "rpc" / "described.d.ts").read_text(encoding="utf-8")


def test_several_sockets_have_an_interface_each():
    text = Description({"/ws": Live, "/admin": Admin}).typescript()

    assert "export interface LiveApi {" in text
    assert "export interface AdminApi {" in text


RIGHT = """
import { connect } from "@CLIENT@/sstream.js";
import type { Api, Item, Tree } from "./api.js";

const s = connect<Api>("/ws");
const cart: Promise<Record<string, Item>> = s.call("cart.add", [{ name: "tea" }, 2, "gift", 5]);
const same: Promise<Record<string, Item>> = s.rpc.cart.add({ name: "tea", color: "red" });
const tree: Promise<Tree> = s.call("cart.tree", [{ type: "tree", nodeName: "x" }, new Date(), new Uint8Array()]);
const nothing: Promise<null> = s.call("nothing");
for await (const [number, [x, y]] of s.stream("ticks", [1, "fast"])) console.log(number + x, y);
s.on("cart", (cart) => cart["tea"]?.toFixed());
s.on("moved", (who, [x]) => who.trim() + x);
s.on("session", (view) => view?.["name"]);
void [cart, same, tree, nothing];
"""
WRONG = {
    "a wrong argument": 's.call("cart.add", ["tea"]);',
    "a wrong name": 's.call("cart.ad", [{ name: "tea" }]);',
    "a wrong use of the result": 'const n: Promise<number> = s.call("cart.add", [{ name: "tea" }]); void n;',
    "a missing argument": 's.call("cart.tree", [null]);',
    "a literal that is none": 's.stream("ticks", [1, "medium"]);',
    "a wrong event": 's.on("carts", () => {});',
    "a wrong argument of an event": 's.on("moved", (who: number) => who);',
}


@pytest.fixture
def compile_typescript(tmp_path, node, description):
    """``compile_typescript(source)`` gives the compiler's status and output; ``api.d.ts`` is the description."""
    compiler = CLIENT / "node_modules" / "typescript" / "bin" / "tsc"
    if not compiler.exists():
        pytest.skip("the packages of the browser client are not installed: npm ci in sstream/client")
    (tmp_path / "api.d.ts").write_text(description.typescript(), encoding="utf-8")
    options = {
        "strict": True,
        "noEmit": True,
        "target": "es2024",
        "lib": ["esnext", "dom", "dom.iterable"],
        "module": "nodenext",
        "types": [],
        "exactOptionalPropertyTypes": True,
        "noUncheckedIndexedAccess": True,
    }
    (tmp_path / "tsconfig.json").write_text(
        json.dumps({"compilerOptions": options, "include": ["use.mts", "api.d.ts"]})
    )

    def compile_typescript(source: str) -> tuple[int, str]:
        (tmp_path / "use.mts").write_text(source.replace("@CLIENT@", str(CLIENT)), encoding="utf-8")
        done = subprocess.run(
            [node, compiler, "--project", tmp_path], capture_output=True, text=True, timeout=240, check=False
        )
        return done.returncode, done.stdout + done.stderr

    return compile_typescript


def test_typescript_accepts_a_right_use(compile_typescript):
    assert compile_typescript(RIGHT) == (0, "")


@pytest.mark.parametrize("mistake", WRONG)
def test_typescript_finds_a_wrong_use(compile_typescript, mistake):
    status, output = compile_typescript(RIGHT + WRONG[mistake])

    line = 1 + RIGHT.count("\n")
    assert status != 0
    assert [text for text in output.splitlines() if f"use.mts({line}," in text]
    assert output.count("error TS") == 1


# Markdown


def test_markdown_has_each_method_with_its_types_and_conditions(description):
    text = description.markdown()

    assert text.startswith("# `/ws`: Live\n\nThe shop's socket.\n")
    assert "## `cart.add(item: Item, count?: number, ...notes: (string | number)[])`\n\nPut an item into" in text
    assert "Gives `Tree`; behind `load_session`, `rate_limit`; within 5 s; goes on when the socket closes." in text
    assert "Streams `[number, Point]`." in text
    assert "without a deadline" in text
    assert "## Event `moved(string, Point)`" in text
    assert "export interface Item {" in text
