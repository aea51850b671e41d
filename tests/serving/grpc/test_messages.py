"""The messages: the protocol's own, beside those of a client in the same process."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_health.v1 import health_pb2
from hypothesis import example, given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2, service_pb2

import ascend_parallel
from ascend_parallel.errors import UsageError
from ascend_parallel.serving.grpc.messages import HEALTH, INFERENCE, message_class, method_names
from ascend_parallel.serving.grpc.wire import split_request, start_field

FOLDER = Path(ascend_parallel.__file__).parent / "serving" / "grpc"
SCRIPT = Path(__file__).parents[3] / "scripts" / "make_protocol.sh"


def descriptors():
    """Return the messages of clients that can be installed here; Paddle Serving's cannot, see tests/serving/paddle."""
    files = FileDescriptorSet.FromString((FOLDER / "protocol.binpb").read_bytes()).file
    return [(file.package, message) for file in files for message in file.message_type if "paddle" not in file.package]


def fields(descriptor):
    """Return what the fields of a message are, those of the messages in it included."""
    found = {
        (descriptor.name, field.name): (field.number, field.type, field.is_repeated, field.message_type is not None)
        for field in descriptor.fields
    }
    for inner in descriptor.nested_types:
        found |= {(descriptor.name, *key): value for key, value in fields(inner).items()}
    return found


@pytest.mark.parametrize("package, name", [(package, message.name) for package, message in descriptors()])
def test_messages_are_those_of_the_real_clients(package, name):
    module = next(module for module in (service_pb2, model_config_pb2, health_pb2) if hasattr(module, name))
    own = message_class(f"{package}.{name}").DESCRIPTOR
    theirs = getattr(module, name).DESCRIPTOR
    assert own.full_name == theirs.full_name
    assert fields(own).items() <= fields(theirs).items()
    for field in own.fields:
        if field.enum_type is not None:
            values = {value.name: value.number for value in field.enum_type.values}
            assert values == {v.name: v.number for v in theirs.fields_by_name[field.name].enum_type.values}


def test_methods_are_those_of_the_real_clients():
    theirs = {method.name for method in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods}
    assert set(method_names(INFERENCE)) < theirs
    assert set(method_names(HEALTH)) <= {
        method.name for method in health_pb2.DESCRIPTOR.services_by_name["Health"].methods
    }


def test_the_descriptors_are_made_of_the_proto_files(tmp_path):
    done = subprocess.run([SCRIPT, sys.executable, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    made, kept = (
        FileDescriptorSet.FromString((folder / "protocol.binpb").read_bytes()) for folder in (tmp_path, FOLDER)
    )
    assert made == kept, "make protocol"


@pytest.mark.parametrize("names", [("tritonclient.grpc", "ascend_parallel.serving.grpc.server")] * 2, ids=["a", "b"])
def test_a_client_can_be_imported_in_the_server_s_process(names, request):
    first, second = names if request.node.callspec.id == "a" else reversed(names)
    code = f"import {first}, {second}, grpc_health.v1.health_pb2"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# ---- the wire format


requests = st.builds(
    service_pb2.ModelInferRequest,
    model_name=st.text(max_size=300),
    id=st.text(max_size=200),
    raw_input_contents=st.lists(st.binary(max_size=300), max_size=4),
    outputs=st.lists(
        st.builds(service_pb2.ModelInferRequest.InferRequestedOutputTensor, name=st.text(max_size=20)), max_size=3
    ),
)


@given(requests, requests)
def test_a_request_is_taken_apart_as_protobuf_would(first, second):
    data = first.SerializeToString() + second.SerializeToString()  # which is how protobuf merges messages
    whole = service_pb2.ModelInferRequest.FromString(data)
    parts = split_request(data, 3, 7)
    assert parts.id == whole.id
    assert [data[start : start + size] for start, size in parts.raw] == list(whole.raw_input_contents)
    whole.ClearField("id")
    whole.ClearField("raw_input_contents")
    assert service_pb2.ModelInferRequest.FromString(parts.head) == whole


@given(st.binary(max_size=60))
@example(b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
@example(b"\x3a\x05abc")
@example(b"\x1a\x01\xff")
@example(b"\x80" * 11)
@example(b"\x02\x00")
@example(b"\xba\x00\x01a")
@example(b"\x0b\x0c")
def test_what_protobuf_refuses_is_refused(data):
    try:
        parts = split_request(data, 3, 7)
        again = service_pb2.ModelInferRequest.FromString(parts.head)
    except UsageError:
        return
    except Exception as error:
        assert type(error).__name__ == "DecodeError"
        return
    whole = service_pb2.ModelInferRequest.FromString(data)
    assert [data[start : start + size] for start, size in parts.raw] == list(whole.raw_input_contents)
    assert again.model_name == whole.model_name


@given(st.lists(st.binary(max_size=400), max_size=5))
def test_fields_are_written_as_protobuf_reads_them(contents):
    data = b"".join(part for content in contents for part in (start_field(7, len(content)), content))
    assert list(service_pb2.ModelInferRequest.FromString(data).raw_input_contents) == contents


def test_a_long_field():
    content = bytes(1 << 21)
    assert service_pb2.ModelInferRequest.FromString(start_field(7, 1 << 21) + content).raw_input_contents[0] == content
