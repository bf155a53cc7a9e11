import json

import numpy as np
import pytest

from pipeline.data.intensity import (
    Intensity,
    every_value,
    histogram,
    look_up,
    tail_limits,
    to_uint8,
)
from pipeline.errors import DescryError


def test_uint8_is_returned_as_the_same_object():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert to_uint8(pixels, Intensity()) is pixels


def test_percentiles_are_order_statistics_counted_from_both_ends():
    # 200 pixels 0..199: 0.5 % of 200 is 1 pixel cut at each end -> limits 1 and 198.
    pixels = np.arange(200, dtype=np.uint16)
    values, counts = every_value(pixels.dtype), histogram(pixels)
    assert tail_limits(values, counts, Intensity()) == (1.0, 198.0)
    assert tail_limits(values, counts, Intensity(0, 100)) == (0.0, 199.0)


def test_uint16_is_scaled_between_percentiles():
    pixels = np.array([[1000, 1001, 1002], [1003, 1004, 1255]], dtype=np.uint16)
    expected = np.array([[0, 1, 2], [3, 4, 255]], dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(pixels, Intensity(0, 100)), expected)


def test_signed_and_wide_and_float_pixels_agree_with_uint16():
    pixels = np.random.default_rng(1).integers(0, 5000, (40, 50))
    expected = to_uint8(pixels.astype(np.uint16), Intensity())
    for other in (pixels - 2500, pixels.astype(np.int32), pixels.astype(np.float32)):
        kind = np.int16 if other is not pixels and other.min() < 0 else other.dtype
        np.testing.assert_array_equal(to_uint8(other.astype(kind), Intensity()), expected)


def test_a_negative_gives_the_exact_negative():
    pixels = np.random.default_rng(2).integers(0, 4096, (64, 64)).astype(np.uint16)
    straight = to_uint8(pixels, Intensity()).astype(int)
    inverse = to_uint8(4095 - pixels, Intensity()).astype(int)
    off = straight + inverse != 255
    assert set((straight + inverse)[off]) <= {256}  # exact halves round up in both


def test_constant_and_empty_tails_do_not_divide_by_zero():
    assert to_uint8(np.full((2, 2), 7, np.uint16), Intensity()).tolist() == [[0, 0], [0, 0]]
    spike = np.zeros((10, 10), np.uint16)
    spike[0, 0] = 60000  # fewer pixels than half a percent of 200 keep the tail
    assert to_uint8(spike, Intensity(1, 99)).max() == 0


def test_colour_is_scaled_jointly():
    pixels = np.array([[[0, 500, 1000]]], dtype=np.uint16)
    assert to_uint8(pixels, Intensity(0, 100)).tolist() == [[[0, 128, 255]]]


def test_look_up_follows_bit_patterns_of_signed_values():
    pixels = np.array([-2, -1, 0, 1], dtype=np.int8)
    values = every_value(pixels.dtype)
    np.testing.assert_array_equal(values[look_up(np.arange(256, dtype=np.uint8), pixels)], pixels)


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="complex128"):
        to_uint8(np.zeros((2, 2), dtype=complex), Intensity())


def test_recipe_survives_json():
    recipe = Intensity(1.0, 99.0, "none")
    assert Intensity.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"low_percentile": 50, "high_percentile": 50}, "low < high"),
        ({"low_percentile": -1}, "low_percentile=-1"),
        ({"window": "second"}, "allowed are first, none"),
    ],
)
def test_impossible_recipes_are_refused(values, message):
    with pytest.raises(DescryError, match=message):
        Intensity(**values)


def test_unknown_and_missing_keys_are_refused():
    good = Intensity().to_dict()
    with pytest.raises(DescryError, match="gamma"):
        Intensity.from_dict(good | {"gamma": 1})
    del good["window"]
    with pytest.raises(DescryError, match="another version"):
        Intensity.from_dict(good)
