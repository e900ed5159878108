"""The published OpenAPI document is true, and nothing that is made from it makes the gateway fail."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.openapi.checks import (
    IgnoredAuth,
)

from al_ray.actors.gateway import Gateway
from al_ray.actors.openapi import document
from tests.actors.gateway_house import SPEC, House


def test_the_document_names_every_route_and_no_other() -> None:
    served = {(route.method, route.path) for route in Gateway(SPEC, Mock())._routes()}
    told = {(method.upper(), path) for path, item in document()["paths"].items() for method in item}
    assert told == served
