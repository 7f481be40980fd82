"""The limits, method names and metadata keys on which both sides of the API agree."""

MAX_MESSAGE_BYTES = 64 * 2**20
"""The largest message in bytes, either way: 6 megapixels with alpha and 16 bits fit as a PNG."""

GENERATE = "/gooseai.GenerationService/Generate"
CHAIN_GENERATE = "/gooseai.GenerationService/ChainGenerate"
LIST_ENGINES = "/gooseai.EnginesService/ListEngines"
GET_ME = "/gooseai.DashboardService/GetMe"
GET_ORGANIZATION = "/gooseai.DashboardService/GetOrganization"

# Keys of metadata beside the contract's messages; a side that does not know them leaves them out.

LEDGER = "beam-upscale-ledger"
"""The id of the ledger and the key in which a caller is charged. It is in the trailing metadata of
ListEngines, and in the metadata of a request, which another ledger refuses."""

REPLAY_SECONDS = "beam-upscale-replay-seconds"
"""The seconds for which a ledger remembers a request id; trailing metadata of ListEngines."""

CHARGED = "beam-upscale-charged"
"""The credits that a call was charged. In the trailing metadata of an answer, it is 0 if a result
is given again; in that of a refusal, it is 0 if the request id was not charged before, either."""
