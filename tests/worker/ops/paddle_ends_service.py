"""A file of Paddle Serving with a RequestOp and a ResponseOp of its own."""

import numpy as np
from paddle_serving_server.pipeline import Op, PipelineServer, RequestOp, ResponseOp
from paddle_serving_server.pipeline.channel import ChannelDataErrcode, ChannelDataType
from paddle_serving_server.pipeline.proto import pipeline_service_pb2


class Unpack(RequestOp):
    def init_op(self):
        self.seen = 0

    def unpack_request_package(self, request):
        self.seen += 1
        inputs = dict(zip(request.key, request.value, strict=True))
        say = inputs.get("say")
        if say == "refuse":
            return {}, request.logid, 61, "no"
        if say == "three":
            return {}, None, ""
        if say == "text":
            return "text", 0, None, ""
        if say == "base":
            return super().unpack_request_package(request)
        for tensor in request.tensors:
            inputs[tensor.name], _ = self.proto_tensor_2_numpy(tensor)
        return {"inputs": inputs, "logid": request.logid, "seen": self.seen}, request.logid, None, ""


class Pack(ResponseOp):
    def pack_response_package(self, channeldata):
        outputs = channeldata.parse()
        if "none" in outputs:
            return None
        response = pipeline_service_pb2.Response()
        response.err_no = channeldata.error_code
        if "code" in outputs:
            response.err_no, response.err_msg = 99, "packed"
        if "short" in outputs:
            response.key.append("only")
        assert channeldata.error_code == ChannelDataErrcode.OK.value
        kind = ChannelDataType(channeldata.datatype).name
        response.key.append("what")
        response.value.append(f"{kind} {sorted(outputs)} {channeldata.log_id}")
        return response


class PlainPack(ResponseOp):
    """Packs as its base class does."""


class Rows(Op):
    def preprocess(self, input_dicts, data_id, log_id):
        return {"x": np.ones((1, 3), np.float32)}, False, None, ""


rows = Rows("rows", [Unpack()])
server = PipelineServer("ends")
server.set_response_op(Pack(input_ops=[rows]))
server.prepare_server("config.yml")
server.run_server()
