"""The example of a served model: its command, its configuration and its client."""

import subprocess
import sys
from pathlib import Path

import pytest

from .servers import serving

EXAMPLE = Path(__file__).parents[2] / "examples" / "serving"


@pytest.mark.parametrize("arguments", [[f"{EXAMPLE}/model.py:make", "--devices", "cpu:0,1"], [f"{EXAMPLE}/config.yml"]])
def test_the_client_gets_its_answer(arguments):
    with serving(*arguments) as server:
        client = [sys.executable, str(EXAMPLE / "client.py"), server.url]
        printed = subprocess.run(client, capture_output=True, text=True, check=True).stdout
    assert "'name': 'probabilities'" in printed and "'shape': [2, 4]" in printed
