from beam_upscale.grpc_api.stubs import tensors_pb2 as _tensors_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NULL: _ClassVar[FinishReason]
    LENGTH: _ClassVar[FinishReason]
    STOP: _ClassVar[FinishReason]
    ERROR: _ClassVar[FinishReason]
    FILTER: _ClassVar[FinishReason]

class ArtifactType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ARTIFACT_NONE: _ClassVar[ArtifactType]
    ARTIFACT_IMAGE: _ClassVar[ArtifactType]
    ARTIFACT_VIDEO: _ClassVar[ArtifactType]
    ARTIFACT_TEXT: _ClassVar[ArtifactType]
    ARTIFACT_TOKENS: _ClassVar[ArtifactType]
    ARTIFACT_EMBEDDING: _ClassVar[ArtifactType]
    ARTIFACT_CLASSIFICATIONS: _ClassVar[ArtifactType]
    ARTIFACT_MASK: _ClassVar[ArtifactType]
    ARTIFACT_LATENT: _ClassVar[ArtifactType]
    ARTIFACT_TENSOR: _ClassVar[ArtifactType]
    ARTIFACT_DEPTH: _ClassVar[ArtifactType]
    ARTIFACT_3D_MODEL: _ClassVar[ArtifactType]
    ARTIFACT_AUDIO: _ClassVar[ArtifactType]

class DiffusionSampler(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SAMPLER_DDIM: _ClassVar[DiffusionSampler]
    SAMPLER_DDPM: _ClassVar[DiffusionSampler]
    SAMPLER_K_EULER: _ClassVar[DiffusionSampler]
    SAMPLER_K_EULER_ANCESTRAL: _ClassVar[DiffusionSampler]
    SAMPLER_K_HEUN: _ClassVar[DiffusionSampler]
    SAMPLER_K_DPM_2: _ClassVar[DiffusionSampler]
    SAMPLER_K_DPM_2_ANCESTRAL: _ClassVar[DiffusionSampler]
    SAMPLER_K_LMS: _ClassVar[DiffusionSampler]
    SAMPLER_K_DPMPP_2S_ANCESTRAL: _ClassVar[DiffusionSampler]
    SAMPLER_K_DPMPP_2M: _ClassVar[DiffusionSampler]
    SAMPLER_K_DPMPP_SDE: _ClassVar[DiffusionSampler]

class Upscaler(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UPSCALER_RGB: _ClassVar[Upscaler]
    UPSCALER_GFPGAN: _ClassVar[Upscaler]
    UPSCALER_ESRGAN: _ClassVar[Upscaler]

class StageAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STAGE_ACTION_PASS: _ClassVar[StageAction]
    STAGE_ACTION_DISCARD: _ClassVar[StageAction]
    STAGE_ACTION_RETURN: _ClassVar[StageAction]
NULL: FinishReason
LENGTH: FinishReason
STOP: FinishReason
ERROR: FinishReason
FILTER: FinishReason
ARTIFACT_NONE: ArtifactType
ARTIFACT_IMAGE: ArtifactType
ARTIFACT_VIDEO: ArtifactType
ARTIFACT_TEXT: ArtifactType
ARTIFACT_TOKENS: ArtifactType
ARTIFACT_EMBEDDING: ArtifactType
ARTIFACT_CLASSIFICATIONS: ArtifactType
ARTIFACT_MASK: ArtifactType
ARTIFACT_LATENT: ArtifactType
ARTIFACT_TENSOR: ArtifactType
ARTIFACT_DEPTH: ArtifactType
ARTIFACT_3D_MODEL: ArtifactType
ARTIFACT_AUDIO: ArtifactType
SAMPLER_DDIM: DiffusionSampler
SAMPLER_DDPM: DiffusionSampler
SAMPLER_K_EULER: DiffusionSampler
SAMPLER_K_EULER_ANCESTRAL: DiffusionSampler
SAMPLER_K_HEUN: DiffusionSampler
SAMPLER_K_DPM_2: DiffusionSampler
SAMPLER_K_DPM_2_ANCESTRAL: DiffusionSampler
SAMPLER_K_LMS: DiffusionSampler
SAMPLER_K_DPMPP_2S_ANCESTRAL: DiffusionSampler
SAMPLER_K_DPMPP_2M: DiffusionSampler
SAMPLER_K_DPMPP_SDE: DiffusionSampler
UPSCALER_RGB: Upscaler
UPSCALER_GFPGAN: Upscaler
UPSCALER_ESRGAN: Upscaler
STAGE_ACTION_PASS: StageAction
STAGE_ACTION_DISCARD: StageAction
STAGE_ACTION_RETURN: StageAction

class Token(_message.Message):
    __slots__ = ("text", "id")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    text: str
    id: int
    def __init__(self, text: _Optional[str] = ..., id: _Optional[int] = ...) -> None: ...

class Tokens(_message.Message):
    __slots__ = ("tokens", "tokenizer_id")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_ID_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[Token]
    tokenizer_id: str
    def __init__(self, tokens: _Optional[_Iterable[_Union[Token, _Mapping]]] = ..., tokenizer_id: _Optional[str] = ...) -> None: ...

class Artifact(_message.Message):
    __slots__ = ("id", "type", "mime", "magic", "binary", "text", "tokens", "classifier", "tensor", "index", "finish_reason", "seed", "uuid", "size")
    ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MIME_FIELD_NUMBER: _ClassVar[int]
    MAGIC_FIELD_NUMBER: _ClassVar[int]
    BINARY_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    CLASSIFIER_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    id: int
    type: ArtifactType
    mime: str
    magic: str
    binary: bytes
    text: str
    tokens: Tokens
    classifier: ClassifierParameters
    tensor: _tensors_pb2.Tensor
    index: int
    finish_reason: FinishReason
    seed: int
    uuid: str
    size: int
    def __init__(self, id: _Optional[int] = ..., type: _Optional[_Union[ArtifactType, str]] = ..., mime: _Optional[str] = ..., magic: _Optional[str] = ..., binary: _Optional[bytes] = ..., text: _Optional[str] = ..., tokens: _Optional[_Union[Tokens, _Mapping]] = ..., classifier: _Optional[_Union[ClassifierParameters, _Mapping]] = ..., tensor: _Optional[_Union[_tensors_pb2.Tensor, _Mapping]] = ..., index: _Optional[int] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ..., seed: _Optional[int] = ..., uuid: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class PromptParameters(_message.Message):
    __slots__ = ("init", "weight")
    INIT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    init: bool
    weight: float
    def __init__(self, init: _Optional[bool] = ..., weight: _Optional[float] = ...) -> None: ...

class Prompt(_message.Message):
    __slots__ = ("parameters", "text", "tokens", "artifact")
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    parameters: PromptParameters
    text: str
    tokens: Tokens
    artifact: Artifact
    def __init__(self, parameters: _Optional[_Union[PromptParameters, _Mapping]] = ..., text: _Optional[str] = ..., tokens: _Optional[_Union[Tokens, _Mapping]] = ..., artifact: _Optional[_Union[Artifact, _Mapping]] = ...) -> None: ...

class SamplerParameters(_message.Message):
    __slots__ = ("eta", "sampling_steps", "latent_channels", "downsampling_factor", "cfg_scale", "init_noise_scale", "step_noise_scale")
    ETA_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_STEPS_FIELD_NUMBER: _ClassVar[int]
    LATENT_CHANNELS_FIELD_NUMBER: _ClassVar[int]
    DOWNSAMPLING_FACTOR_FIELD_NUMBER: _ClassVar[int]
    CFG_SCALE_FIELD_NUMBER: _ClassVar[int]
    INIT_NOISE_SCALE_FIELD_NUMBER: _ClassVar[int]
    STEP_NOISE_SCALE_FIELD_NUMBER: _ClassVar[int]
    eta: float
    sampling_steps: int
    latent_channels: int
    downsampling_factor: int
    cfg_scale: float
    init_noise_scale: float
    step_noise_scale: float
    def __init__(self, eta: _Optional[float] = ..., sampling_steps: _Optional[int] = ..., latent_channels: _Optional[int] = ..., downsampling_factor: _Optional[int] = ..., cfg_scale: _Optional[float] = ..., init_noise_scale: _Optional[float] = ..., step_noise_scale: _Optional[float] = ...) -> None: ...

class ScheduleParameters(_message.Message):
    __slots__ = ("start", "end", "value")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    start: float
    end: float
    value: float
    def __init__(self, start: _Optional[float] = ..., end: _Optional[float] = ..., value: _Optional[float] = ...) -> None: ...

class StepParameter(_message.Message):
    __slots__ = ("scaled_step", "sampler", "schedule")
    SCALED_STEP_FIELD_NUMBER: _ClassVar[int]
    SAMPLER_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    scaled_step: float
    sampler: SamplerParameters
    schedule: ScheduleParameters
    def __init__(self, scaled_step: _Optional[float] = ..., sampler: _Optional[_Union[SamplerParameters, _Mapping]] = ..., schedule: _Optional[_Union[ScheduleParameters, _Mapping]] = ...) -> None: ...

class TransformType(_message.Message):
    __slots__ = ("diffusion", "upscaler")
    DIFFUSION_FIELD_NUMBER: _ClassVar[int]
    UPSCALER_FIELD_NUMBER: _ClassVar[int]
    diffusion: DiffusionSampler
    upscaler: Upscaler
    def __init__(self, diffusion: _Optional[_Union[DiffusionSampler, str]] = ..., upscaler: _Optional[_Union[Upscaler, str]] = ...) -> None: ...

class ImageParameters(_message.Message):
    __slots__ = ("height", "width", "seed", "samples", "steps", "transform", "parameters")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TRANSFORM_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    seed: _containers.RepeatedScalarFieldContainer[int]
    samples: int
    steps: int
    transform: TransformType
    parameters: _containers.RepeatedCompositeFieldContainer[StepParameter]
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ..., seed: _Optional[_Iterable[int]] = ..., samples: _Optional[int] = ..., steps: _Optional[int] = ..., transform: _Optional[_Union[TransformType, _Mapping]] = ..., parameters: _Optional[_Iterable[_Union[StepParameter, _Mapping]]] = ...) -> None: ...

class ClassifierParameters(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AnswerMeta(_message.Message):
    __slots__ = ("gpu_id", "cpu_id", "node_id", "engine_id")
    GPU_ID_FIELD_NUMBER: _ClassVar[int]
    CPU_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ENGINE_ID_FIELD_NUMBER: _ClassVar[int]
    gpu_id: str
    cpu_id: str
    node_id: str
    engine_id: str
    def __init__(self, gpu_id: _Optional[str] = ..., cpu_id: _Optional[str] = ..., node_id: _Optional[str] = ..., engine_id: _Optional[str] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("answer_id", "request_id", "received", "created", "meta", "artifacts")
    ANSWER_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    META_FIELD_NUMBER: _ClassVar[int]
    ARTIFACTS_FIELD_NUMBER: _ClassVar[int]
    answer_id: str
    request_id: str
    received: int
    created: int
    meta: AnswerMeta
    artifacts: _containers.RepeatedCompositeFieldContainer[Artifact]
    def __init__(self, answer_id: _Optional[str] = ..., request_id: _Optional[str] = ..., received: _Optional[int] = ..., created: _Optional[int] = ..., meta: _Optional[_Union[AnswerMeta, _Mapping]] = ..., artifacts: _Optional[_Iterable[_Union[Artifact, _Mapping]]] = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ("engine_id", "request_id", "requested_type", "prompt", "image", "classifier")
    ENGINE_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_TYPE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    CLASSIFIER_FIELD_NUMBER: _ClassVar[int]
    engine_id: str
    request_id: str
    requested_type: ArtifactType
    prompt: _containers.RepeatedCompositeFieldContainer[Prompt]
    image: ImageParameters
    classifier: ClassifierParameters
    def __init__(self, engine_id: _Optional[str] = ..., request_id: _Optional[str] = ..., requested_type: _Optional[_Union[ArtifactType, str]] = ..., prompt: _Optional[_Iterable[_Union[Prompt, _Mapping]]] = ..., image: _Optional[_Union[ImageParameters, _Mapping]] = ..., classifier: _Optional[_Union[ClassifierParameters, _Mapping]] = ...) -> None: ...

class OnStatus(_message.Message):
    __slots__ = ("reason", "target", "action")
    REASON_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    reason: _containers.RepeatedScalarFieldContainer[FinishReason]
    target: str
    action: _containers.RepeatedScalarFieldContainer[StageAction]
    def __init__(self, reason: _Optional[_Iterable[_Union[FinishReason, str]]] = ..., target: _Optional[str] = ..., action: _Optional[_Iterable[_Union[StageAction, str]]] = ...) -> None: ...

class Stage(_message.Message):
    __slots__ = ("id", "request", "on_status")
    ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    ON_STATUS_FIELD_NUMBER: _ClassVar[int]
    id: str
    request: Request
    on_status: _containers.RepeatedCompositeFieldContainer[OnStatus]
    def __init__(self, id: _Optional[str] = ..., request: _Optional[_Union[Request, _Mapping]] = ..., on_status: _Optional[_Iterable[_Union[OnStatus, _Mapping]]] = ...) -> None: ...

class ChainRequest(_message.Message):
    __slots__ = ("request_id", "stage")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    stage: _containers.RepeatedCompositeFieldContainer[Stage]
    def __init__(self, request_id: _Optional[str] = ..., stage: _Optional[_Iterable[_Union[Stage, _Mapping]]] = ...) -> None: ...
