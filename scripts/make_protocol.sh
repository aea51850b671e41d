#!/usr/bin/env bash
# Compiles the .proto files of the gRPC service into the descriptors that are read at run time: make protocol.
# Usage: make_protocol.sh PYTHON [FOLDER]; PYTHON has grpcio-tools; FOLDER is where the descriptors go.
set -euo pipefail
python=$(command -v "$1")
folder=$(realpath "${2:-"$(dirname "$0")/../ascend_parallel/serving/grpc"}")
cd "$(dirname "$0")/../ascend_parallel/serving/grpc"
"$python" -m grpc_tools.protoc --proto_path=. --descriptor_set_out="$folder/protocol.binpb" open_inference.proto health.proto \
    paddle_pipeline.proto
