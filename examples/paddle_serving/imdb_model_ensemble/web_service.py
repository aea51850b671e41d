"""Whether a review of a film is a good one: two models vote. An op without a model joins them.

The request, a sentence, is made numbers once for both by a RequestOp of its own.
"""

import zlib

import numpy as np
from paddle_serving_server.pipeline import Op, PipelineServer, RequestOp, ResponseOp
from paddle_serving_server.pipeline.channel import ChannelDataErrcode
from paddle_serving_server.pipeline.proto import pipeline_service_pb2

WORDS = 64


class ReviewRequestOp(RequestOp):
    """Counts the words of a sentence."""

    def unpack_request_package(self, request):
        counts = np.zeros((1, WORDS), np.float32)
        for key, value in zip(request.key, request.value):
            if key == "words":
                for word in value.split():
                    counts[0, zlib.crc32(word.lower().encode()) % WORDS] += 1
        return {"words": counts}, request.logid, None, ""


class ModelOp(Op):
    """A model that gets the words, unless there are none: then it is skipped."""

    def preprocess(self, input_dicts, data_id, log_id):
        ((_, input_dict),) = input_dicts.items()
        if not input_dict["words"].any():
            return {"prediction": np.full((1, 2), 0.5, np.float32)}, True, None, ""
        return {"words": input_dict["words"]}, False, None, ""

    def postprocess(self, input_dicts, fetch_dict, data_id, log_id):
        return {"prediction": fetch_dict["prediction"]}, None, ""


class CombineOp(Op):
    """The mean of what the models say."""

    def preprocess(self, input_dicts, data_id, log_id):
        predictions = [input_dict["prediction"] for input_dict in input_dicts.values()]
        return {"prediction": sum(predictions) / len(predictions)}, False, None, ""

    def postprocess(self, input_dicts, fetch_dict, data_id, log_id):
        return fetch_dict, None, ""


class ReviewResponseOp(ResponseOp):
    """Rounds the answer."""

    def pack_response_package(self, channeldata):
        response = pipeline_service_pb2.Response()
        response.err_no = channeldata.error_code
        if channeldata.error_code == ChannelDataErrcode.OK.value:
            for name, value in channeldata.parse().items():
                response.key.append(name)
                response.value.append(str(np.round(value, 3).tolist()))
        else:
            response.err_msg = channeldata.error_info
        return response


read_op = ReviewRequestOp()
bow_op = ModelOp(name="bow", input_ops=[read_op])
cnn_op = ModelOp(name="cnn", input_ops=[read_op])
combine_op = CombineOp(name="combine", input_ops=[bow_op, cnn_op])
response_op = ReviewResponseOp(input_ops=[combine_op])

server = PipelineServer("imdb")
server.set_response_op(response_op)
server.prepare_server("config.yml")
server.run_server()
