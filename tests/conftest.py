"""Whose certificates the tests of archives trust, and whose they do not."""

import pytest


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    from certificate_factory import Authority  # not for all tests: it needs what they do without

    return Authority(tmp_path_factory.mktemp("hospital"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    from certificate_factory import Authority  # not for all tests: it needs what they do without

    return Authority(tmp_path_factory.mktemp("elsewhere"))
