// Upscales /image by the service that the query names, with the helpers of the TypeScript example,
// and posts what came of it to /result or /error, all on this page's own origin.
import { grpc as GRPCWeb } from "@improbable-eng/grpc-web";
import * as Generation from "../../../clients/typescript/src/generation/generation_pb";
import { GenerationServiceClient } from "../../../clients/typescript/src/generation/generation_pb_service";
import {
  buildGenerationRequest,
  executeGenerationRequest,
} from "../../../clients/typescript/src/helpers";

async function upscale(query) {
  const metadata = new GRPCWeb.Metadata();
  if (query.has("key")) {
    metadata.set("Authorization", "Bearer " + query.get("key"));
  }
  const image = await (await fetch("/image")).arrayBuffer();
  const request = buildGenerationRequest(query.get("engine"), {
    type: "upscaling",
    upscaler: Generation.Upscaler.UPSCALER_ESRGAN,
    initImage: new Uint8Array(image),
    width: Number(query.get("width")),
  });
  const client = new GenerationServiceClient(query.get("endpoint"), {});
  const response = await executeGenerationRequest(client, request, metadata);
  if (response instanceof Error) {
    throw response;
  }
  return response.imageArtifacts[0].getBinary_asU8();
}

upscale(new URLSearchParams(location.search)).then(
  (body) => fetch("/result", { method: "POST", body }),
  (error) => fetch("/error", { method: "POST", body: error.message }),
);
