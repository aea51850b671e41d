"""What is wrong with an application of Ray Serve is told before anything is started; no cluster is needed for it."""

import pytest
import yaml
from models import linear

from ascend_parallel import ConfigError, UsageError
from ascend_parallel.devices import Device
from ascend_parallel.errors import DeviceSpecError
from ascend_parallel.ray_serve import build
from ascend_parallel.ray_serve.devices import add_resources
from ascend_parallel.ray_serve.settings import REFUSED, read_settings
from ascend_parallel.serving.config import ServerConfig

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray Serve's own modules


@pytest.fixture
def model():
    return {"path": str(linear()), "devices": "cpu:0"}


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ({}, "config is None; expected the path of a configuration, as in config=config.yml, or its settings"),
        ({"config": "x.yml", "num_replica": "2"}, "'num_replica' is no argument of build.*did you mean 'num_replicas'"),
        ({"config": "x.yml", "name": "mine"}, "'name' is no argument of build"),
        ({"config": "x.yml", "max_retries": "-1"}, "max_retries is -1; expected a whole number, at least 0"),
        ({"config": "x.yml", "devices_per_replica": "two"}, "devices_per_replica is 'two'; expected a whole number"),
        ({"config": "x.yml", "autoscaling_config": "{"}, "autoscaling_config is '{'; expected a value as in YAML"),
        ({"config": "x.yml", "devices_per_replica": 2}, "there is no configuration file x.yml"),
    ],
)
def test_arguments(args, text, monkeypatch):
    monkeypatch.setattr("ascend_parallel.ray_serve.devices._counts_of_cluster", lambda _: {"ascend": 8, "gpu": 0})
    with pytest.raises(UsageError, match=text):
        build(args)


def test_ray_serve_s_own_refusal_is_a_sentence(model):
    with pytest.raises(UsageError, match="Ray Serve refuses the options of the deployment: .*num_replicas"):
        build({"config": {"models": [model]}, "num_replicas": 0})


def test_settings_that_ray_serve_has_are_refused_with_their_lines(model, tmp_path):
    settings = {"host": "0.0.0.0", "port": 8000, "grpc_port": 8001, "shared_memory_prefix": "x", "access_log": False}
    settings |= {"log_format": "text", "drain_timeout_s": 30, "allow_control": False}
    file = tmp_path / "config.yml"
    file.write_text(yaml.safe_dump({**settings, "models": [model]}, sort_keys=False))
    with pytest.raises(ConfigError) as caught:
        build({"config": str(file)})
    told = caught.value.problems
    assert len(told) == len(settings)
    assert told[1] == f"{file}:2:1: port is not for Ray Serve: its proxies listen; set port in its http_options"
    with pytest.raises(ConfigError, match="config: port is not for Ray Serve"):
        build({"config": {"port": 8000, "models": [model]}})


def test_each_setting_of_a_server_is_refused_or_kept():
    kept = {"max_body_bytes", "max_pending_bytes", "token_file", "models", "pipelines"}
    assert set(ServerConfig.model_fields) - set(REFUSED) == kept


def test_mistakes_in_a_model_are_told_as_by_serve(tmp_path):
    (tmp_path / "config.yml").write_text("models: [{path: nothing.onnx, devices: 'cpu:0', instances: many}]\n")
    with pytest.raises(ConfigError, match=r"config.yml:1:\d+: models\[0\].instances is 'many'"):
        build({"config": str(tmp_path / "config.yml")})


@pytest.mark.parametrize(
    ("devices", "per_replica", "expected"),
    [
        (["ascend:0,1"], None, {"num_cpus": 1, "resources": {"NPU": 2}}),
        (["ascend:0"], 4, {"num_cpus": 1, "resources": {"NPU": 4}}),
        (["gpu:0", "cpu:0-2"], None, {"num_cpus": 3, "num_gpus": 1}),
        (["tensorrt:0", "simulated:0"], None, {"num_cpus": 1, "num_gpus": 1}),
        (["cpu:0"], None, {"num_cpus": 1}),
    ],
)
def test_what_a_replica_asks_ray_for(devices, per_replica, expected):
    named = {device.hardware for spec in devices for device in _parse(spec)}
    assert add_resources({}, named, per_replica) == {"ray_actor_options": expected}


def test_the_user_s_actor_options_go_first():
    options = {"ray_actor_options": {"num_cpus": 8, "resources": {"NPU": 1, "rack": 1}}, "num_replicas": 3}
    told = add_resources(options, {Device("ascend", 0), Device("ascend", 1)}, None)
    assert told["ray_actor_options"] == {"num_cpus": 8, "resources": {"NPU": 1, "rack": 1}}
    assert told["num_replicas"] == 3


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("ascend:2,3", "the models run on ascend:2,3, but in a replica devices count from 0"),
        ("xpu:0", "Ray has no resource for xpu devices of its own"),
    ],
)
def test_devices_that_no_replica_can_have(spec, text):
    with pytest.raises(DeviceSpecError, match=text):
        add_resources({}, set(_parse(spec)), None)


def test_a_number_of_devices_that_nothing_runs_on():
    with pytest.raises(UsageError, match="devices_per_replica is 2, but nothing would run on an NPU or a GPU"):
        add_resources({}, {Device("cpu", 0)}, 2)


def test_a_model_may_name_only_what_a_replica_has(model, monkeypatch):
    monkeypatch.setattr("ascend_parallel.ray_serve.devices._counts_of_cluster", lambda _: {"ascend": 2, "gpu": 0})
    sim = {"path": "sim", "engine": "simulated"}
    both = {"models": [{**sim, "name": "a"}, {**sim, "name": "b", "devices": "simulated:0"}]}
    assert {device.type for device in read_settings(both, None).hardware} == {"simulated"}
    with pytest.raises(ConfigError, match="there is no device ascend:2 here: this process has only ascend:0, ascend:1"):
        build(
            {
                "config": {
                    "models": [model, {"path": "os:path", "name": "c", "devices": "ascend:2"}, {**sim, "name": "d"}]
                }
            }
        )


def _parse(spec):
    from ascend_parallel.devices.spec import parse_devices

    return parse_devices(spec)
