"""What both sides of the API agree on beside its messages."""

MAX_MESSAGE_BYTES = 64 * 2**20
"""Largest message in bytes, either way: 6 megapixels with alpha and 16 bits fit as a PNG."""

GENERATE = "/gooseai.GenerationService/Generate"
CHAIN_GENERATE = "/gooseai.GenerationService/ChainGenerate"
LIST_ENGINES = "/gooseai.EnginesService/ListEngines"
GET_ME = "/gooseai.DashboardService/GetMe"
GET_ORGANIZATION = "/gooseai.DashboardService/GetOrganization"
