// Upscales init_image.png in the working directory: the documented example, with its endpoint and
// its key from the environment.
import fs from "fs";
import { grpc as GRPCWeb } from "@improbable-eng/grpc-web";
import { NodeHttpTransport } from "@improbable-eng/grpc-web-node-http-transport";
import * as Generation from "./generation/generation_pb";
import { GenerationServiceClient } from "./generation/generation_pb_service";
import {
  buildGenerationRequest,
  executeGenerationRequest,
  onGenerationComplete,
} from "./helpers";

// Node needs it; a page leaves it out.
GRPCWeb.setDefaultTransport(NodeHttpTransport());

const metadata = new GRPCWeb.Metadata();
if (process.env.API_KEY) {
  metadata.set("Authorization", "Bearer " + process.env.API_KEY);
}

const client = new GenerationServiceClient(process.env.ENDPOINT ?? "http://127.0.0.1:8080", {});

const request = buildGenerationRequest("esrgan-v1-x2plus", {
  type: "upscaling",
  upscaler: Generation.Upscaler.UPSCALER_ESRGAN,
  initImage: fs.readFileSync("./init_image.png"),
});

executeGenerationRequest(client, request, metadata)
  .then(onGenerationComplete)
  .catch((error) => {
    console.error("Failed to upscale image:", error);
    process.exitCode = 1;
  });
