"""examples/cluster/kuberay.yaml against what KubeRay's CRD says (kuberay_schema.yaml); it is applied to no cluster."""

import copy
from pathlib import Path

import jsonschema
import pytest
import yaml

HERE = Path(__file__).resolve().parent
MANIFEST = yaml.safe_load((HERE.parents[1] / "examples" / "cluster" / "kuberay.yaml").read_text())
SCHEMA = yaml.safe_load((HERE / "kuberay_schema.yaml").read_text())

HEAD = ("spec", "headGroupSpec")
WORKERS = ("spec", "workerGroupSpecs", 0)
POD = ("template", "spec")
CONTAINER = (*POD, "containers", 0)

#: The maps whose keys the CRD leaves to the user.
OPEN_MAPS = ("rayStartParams", "nodeSelector", "requests", "limits")


def check_list_keys(validator, keys, items, schema):
    """Kubernetes' own keyword: no two items of a list have the same values of these fields."""
    if not validator.is_type(items, "array"):
        return  # "type" complains
    found = [tuple(item.get(key) for key in keys) for item in items if validator.is_type(item, "object")]
    for double in sorted({values for values in found if found.count(values) > 1}, key=str):
        yield jsonschema.ValidationError(f"two items have the {', '.join(keys)} {double}")


VALIDATOR = jsonschema.validators.extend(
    jsonschema.Draft202012Validator, {"x-kubernetes-list-map-keys": check_list_keys}
)(SCHEMA)


def complaints(manifest):
    return [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(manifest)]


def at(value, place):
    for step in place:
        value = value[step]
    return value


def places(value, place=()):
    """The places of all values below ``value`` that the CRD has a schema for: fields, and items of lists."""
    for step in range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ():
        yield (*place, step)
        if step not in OPEN_MAPS:
            yield from places(value[step], (*place, step))


def show(place):
    return ".".join(map(str, place))


PLACES = list(places(MANIFEST))
FIELDS = [place for place in PLACES if isinstance(place[-1], str)]
LISTS = [place for place in FIELDS if isinstance(at(MANIFEST, place), list) and place[-1] != "workerGroupSpecs"]


def test_the_schema_is_a_json_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_manifest_is_as_the_crd_wants_it():
    assert complaints(MANIFEST) == []


@pytest.mark.parametrize("place", FIELDS, ids=show)
def test_no_field_may_be_misspelt(place):
    manifest = copy.deepcopy(MANIFEST)
    *parent, name = place
    at(manifest, parent)[name + "s"] = at(manifest, parent).pop(name)
    assert any(f"('{name}s' was unexpected)" in line for line in complaints(manifest))


@pytest.mark.parametrize("place", PLACES, ids=show)
def test_no_value_may_be_of_another_type(place):
    manifest = copy.deepcopy(MANIFEST)
    *parent, last = place
    at(manifest, parent)[last] = 1.5  # nothing in the manifest is such a number
    (line,) = complaints(manifest)
    assert line.split(": ")[0].endswith(f"[{last}]" if isinstance(last, int) else f".{last}")


@pytest.mark.parametrize("place", LISTS, ids=show)
def test_no_item_may_be_there_twice(place):
    manifest = copy.deepcopy(MANIFEST)
    at(manifest, place).append(at(manifest, place)[0])
    (line,) = complaints(manifest)
    assert f".{place[-1]}: two items have the " in line


REQUIRED = [
    ((), "apiVersion kind metadata spec"),
    (("metadata",), "name"),
    (("spec",), "headGroupSpec"),
    (HEAD, "rayStartParams template"),
    (WORKERS, "groupName minReplicas maxReplicas rayStartParams template"),
    ((*HEAD, *POD), "containers"),
    ((*WORKERS, *CONTAINER), "name"),
    ((*HEAD, *CONTAINER, "ports", 1), "containerPort"),
    ((*WORKERS, *CONTAINER, "env", 0), "name"),
    ((*WORKERS, *CONTAINER, "volumeMounts", 1), "name mountPath"),
    ((*WORKERS, *POD, "volumes", 0), "name"),
    ((*WORKERS, *POD, "volumes", 0, "persistentVolumeClaim"), "claimName"),
    ((*WORKERS, *POD, "volumes", 1, "hostPath"), "path"),
]


@pytest.mark.parametrize(("parent", "name"), [(parent, name) for parent, names in REQUIRED for name in names.split()])
def test_a_required_field_may_not_be_missing(parent, name):
    manifest = copy.deepcopy(MANIFEST)
    del at(manifest, parent)[name]
    assert [line.split(": ")[1] for line in complaints(manifest)] == [f"'{name}' is a required property"]


BROKEN = [  # what somebody might write -> the complaint
    (("apiVersion",), "ray.io/v1alpha1", "'ray.io/v1' was expected"),
    (("kind",), "RayService", "'RayCluster' was expected"),
    ((*HEAD, "replicas"), 1, "('replicas' was unexpected)"),
    ((*HEAD, "rayStartParams", "num-cpus"), 0, "0 is not of type 'string'"),
    ((*WORKERS, "replicas"), "2", "'2' is not of type 'integer'"),
    ((*WORKERS, "maxReplicas"), 2**31, "2147483648 is greater than the maximum of 2147483647"),
    ((*WORKERS, "template", "containers"), [], "('containers' was unexpected)"),
    ((*WORKERS, *POD, "nodeSelector", "gpu"), True, "True is not of type 'string'"),
    ((*WORKERS, *CONTAINER, "resources", "limits", "memory"), "64GiB", "'64GiB' does not match"),
    ((*WORKERS, *CONTAINER, "resources", "huawei.com/Ascend310P"), "2", "('huawei.com/Ascend310P' was unexpected)"),
    ((*WORKERS, *CONTAINER, "env", 0, "value"), 1, "1 is not of type 'string'"),
    ((*WORKERS, *CONTAINER, "volumeMounts", 1, "readOnly"), "yes", "'yes' is not of type 'boolean'"),
    ((*WORKERS, *CONTAINER, "volumeMounts", 1, "mountPath"), "/models", "two items have the mountPath"),
]


@pytest.mark.parametrize(("place", "value", "complaint"), BROKEN, ids=[show(place) for place, *_ in BROKEN])
def test_what_is_wrong_is_named(place, value, complaint):
    manifest = copy.deepcopy(MANIFEST)
    *parent, name = place
    at(manifest, parent)[name] = value
    (line,) = complaints(manifest)
    assert complaint in line


def test_the_groups_fit_together():
    head, workers = at(MANIFEST, HEAD), at(MANIFEST, WORKERS)
    for group in (head, workers):
        mounts = {mount["name"] for mount in at(group, (*CONTAINER, "volumeMounts"))}
        assert mounts == {volume["name"] for volume in at(group, (*POD, "volumes"))}
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]


def test_ray_counts_the_chips_of_the_pod():
    requests, limits = (at(MANIFEST, (*WORKERS, *CONTAINER, "resources", name)) for name in ("requests", "limits"))
    # Kubernetes wants the same of a device plugin's resource in both.
    assert requests["huawei.com/Ascend310P"] == limits["huawei.com/Ascend310P"]
    # KubeRay puts the text into a shell command: within the quotes it is JSON.
    resources = yaml.safe_load(at(MANIFEST, (*WORKERS, "rayStartParams", "resources")))
    assert yaml.safe_load(resources) == {"NPU": int(limits["huawei.com/Ascend310P"])}
