"""Fixtures: a cluster for all tests that leave it as it is, and one of their own for the others."""

import pytest

from local_cluster import Cluster
from played_node import PlayedNode


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    running = Cluster(tmp_path_factory.mktemp("shared") / "data")
    yield running
    running.stop()


@pytest.fixture
def own_cluster(tmp_path):
    running = Cluster(tmp_path / "data")
    yield running
    running.stop()


@pytest.fixture
def node():
    played = PlayedNode()
    yield played
    played.stop()
