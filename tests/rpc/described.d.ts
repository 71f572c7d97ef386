// Written by `python -m sstream describe --typescript`; do not edit.

/**
 * Live, at /ws
 *
 * The shop's socket.
 */
export interface Api {
  methods: {
    "anything": (x: any, y?: any) => Promise<any>;
    /**
     * Put an item into the cart.
     *
     * The ``count`` counts. *\/
     */
    "cart.add": (item: Item, count?: number, ...notes: (string | number)[]) => Promise<Record<string, Item>>;
    "cart.shapes": (pair: Pair, tagged: TaggedPair, box: Box_int, odd: Odd, sizes: Partial<Record<Color, number>>) => Promise<string[]>;
    "cart.tree": (default_: Tree | null, when: Date | string, data?: Uint8Array) => Promise<Tree>;
    "nothing": () => Promise<null>;
    "strange": () => Promise<any>;
    "ticks": (every: number, mode?: "fast" | "slow") => AsyncIterable<[number, Point]>;
  };
  events: {
    "cart": [Record<string, number>];
    "closed": [];
    "moved": [string, Point];
  };
  session: Record<string, any> | null;
}

/** One line of a cart. */
export interface Item {
  name: string;
  qty?: number;
  color?: Color | null;
}

export type Color = "red" | "blue";

export type Pair = [left: number, right: number];

export type TaggedPair = ["pair", number, number];

export interface Box_int {
  value: number;
}

export interface Odd {
  "a-b"?: number;
  class?: string;
}

export interface Tree {
  type: "tree";
  nodeName: string;
  children?: Tree[];
}

export type Point = [x: number, y?: number];
