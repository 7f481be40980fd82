// Unpacks a Brotli file: node unpack.mjs FROM TO
import fs from "node:fs";
import { pipeline } from "node:stream/promises";
import { createBrotliDecompress } from "node:zlib";

const [from, to] = process.argv.slice(2);
await pipeline(fs.createReadStream(from), createBrotliDecompress(), fs.createWriteStream(to));
