"""The templates that the tracks `assistant` and `instruct` write around a request."""

ASSISTANT = "Human: {request}\n\nAssistant:"
INSTRUCT = "### Instruction:\n{request}\n\n### Response:"
