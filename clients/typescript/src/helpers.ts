// What the documented TypeScript helpers of the service do for upscaling, under the same names.
import fs from "fs";
import { grpc as GRPCWeb } from "@improbable-eng/grpc-web";
import * as Generation from "./generation/generation_pb";
import { GenerationServiceClient } from "./generation/generation_pb_service";

/** Width or height of the result in pixels, never both; neither takes the engine's scale. */
type HeightOrWidth =
  | { height: number; width?: never }
  | { height?: never; width: number }
  | { height?: never; width?: never };

export type UpscalingParams = HeightOrWidth & {
  type: "upscaling";
  /** The encoded image: PNG, JPEG or WebP. */
  initImage: Uint8Array;
  /** Documented, and not sent: the engine says what upscales. */
  upscaler: Generation.UpscalerMap[keyof Generation.UpscalerMap];
};

export type GenerationArtifacts = {
  /** What was made. */
  imageArtifacts: Generation.Artifact[];
  /** What a service withheld or blurred; it is not charged. A server of one's own filters nothing. */
  filteredArtifacts: Generation.Artifact[];
};

export type GenerationResponse = GenerationArtifacts | Error;

/** Builds a request to upscale one image with the engine named. */
export function buildGenerationRequest(
  engineID: string,
  params: UpscalingParams,
): Generation.Request {
  const imageParameters = new Generation.ImageParameters();
  if (params.width) {
    imageParameters.setWidth(params.width);
  } else if (params.height) {
    imageParameters.setHeight(params.height);
  }

  const request = new Generation.Request();
  request.setEngineId(engineID);
  request.setRequestedType(Generation.ArtifactType.ARTIFACT_IMAGE);
  // Both are in one oneof: the second takes the place of the first, as in the documented helpers.
  request.setClassifier(new Generation.ClassifierParameters());
  request.setImage(imageParameters);
  request.addPrompt(imagePrompt(params.initImage));
  return request;
}

function imagePrompt(image: Uint8Array): Generation.Prompt {
  const artifact = new Generation.Artifact();
  artifact.setType(Generation.ArtifactType.ARTIFACT_IMAGE);
  artifact.setBinary(image);

  const parameters = new Generation.PromptParameters();
  parameters.setInit(true);

  const prompt = new Generation.Prompt();
  prompt.setParameters(parameters);
  prompt.setArtifact(artifact);
  return prompt;
}

/** Sends a request and gathers its answers; an error is what the promise resolves to. */
export async function executeGenerationRequest(
  generationClient: GenerationServiceClient,
  request: Generation.Request,
  metadata: GRPCWeb.Metadata,
): Promise<GenerationResponse> {
  try {
    return sorted(await answersOf(generationClient, request, metadata));
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  }
}

function answersOf(
  generationClient: GenerationServiceClient,
  request: Generation.Request,
  metadata: GRPCWeb.Metadata,
): Promise<Generation.Answer[]> {
  return new Promise((resolve, reject) => {
    const answers: Generation.Answer[] = [];
    const stream = generationClient.generate(request, metadata);
    stream.on("data", (answer) => answers.push(answer));
    stream.on("status", ({ code, details }) => {
      if (code !== GRPCWeb.Code.OK) {
        reject(new Error(`${GRPCWeb.Code[code]}: ${details}`));
      }
    });
    stream.on("end", () => resolve(answers));
  });
}

function sorted(answers: Generation.Answer[]): GenerationArtifacts {
  const images = answers
    .flatMap((answer) => answer.getArtifactsList())
    .filter((artifact) => artifact.getType() === Generation.ArtifactType.ARTIFACT_IMAGE);
  const endingIn = (reason: Generation.FinishReasonMap[keyof Generation.FinishReasonMap]) =>
    images.filter((artifact) => artifact.getFinishReason() === reason);
  return {
    imageArtifacts: endingIn(Generation.FinishReason.NULL).filter((image) => image.hasBinary()),
    filteredArtifacts: endingIn(Generation.FinishReason.FILTER),
  };
}

/** Writes each image to image-SEED.png in the working directory; throws where there was an error. */
export function onGenerationComplete(response: GenerationResponse): void {
  if (response instanceof Error) {
    throw response;
  }
  if (response.filteredArtifacts.length > 0) {
    console.log(`${response.filteredArtifacts.length} image(s) were filtered.`);
  }
  for (const image of response.imageArtifacts) {
    const path = `image-${image.getSeed()}.png`;
    fs.writeFileSync(path, image.getBinary_asU8());
    console.log(`Wrote ${path}`);
  }
}
