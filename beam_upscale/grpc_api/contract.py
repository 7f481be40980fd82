"""What both sides of the API agree on beside its messages."""

MAX_MESSAGE_BYTES = 64 * 2**20
"""Largest message in bytes, either way: 6 megapixels with alpha and 16 bits fit as a PNG."""

GENERATE = "/gooseai.GenerationService/Generate"
CHAIN_GENERATE = "/gooseai.GenerationService/ChainGenerate"
LIST_ENGINES = "/gooseai.EnginesService/ListEngines"
GET_ME = "/gooseai.DashboardService/GetMe"
GET_ORGANIZATION = "/gooseai.DashboardService/GetOrganization"

# Metadata beside the contract's messages; who does not know it leaves it out.

LEDGER = "beam-upscale-ledger"
"""The id of the ledger and the key that a caller is charged in: in the trailing metadata of
ListEngines, and in that of a request, which another ledger refuses."""

REPLAY_SECONDS = "beam-upscale-replay-seconds"
"""Seconds for which that ledger remembers a request id; in the trailing metadata of ListEngines."""

CHARGED = "beam-upscale-charged"
"""Credits that a call was charged: in the trailing metadata of an answer, 0 where a result is
given again; and of a refusal, 0 where the request id was not charged before, either."""
