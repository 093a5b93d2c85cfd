import warnings

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_slmsam2.core import intensity
from napari_slmsam2.core.errors import ConfigError, VolumeError
from napari_slmsam2.core.intensity import (
    IntensityWindow,
    check_contrast,
    parse_window,
    sample_finite,
)
from napari_slmsam2.core.volume import Volume

DTYPES = ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]
REAL = st.sampled_from([*DTYPES, ">u2", ">i2", ">i4", ">f4", ">f8"])
SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6)


@given(array=hnp.arrays(REAL, SHAPES), axis=st.integers(0, 2))
@example(array=np.full((2, 2, 2), np.nan), axis=0)
@example(array=np.array([[[-1.7e308, 1.7e308, np.inf, -np.inf, np.nan]]]), axis=2)
def test_any_volume_is_scaled_to_0_to_1(array, axis):
    volume = Volume(array, axis)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        window = parse_window(intensity.DEFAULT_WINDOW, volume)
        scaled = window.apply(volume.take(0))
    assert np.isfinite([window.low, window.high]).all()
    assert scaled.dtype == np.float32
    assert scaled.shape == volume.slice_shape
    assert ((scaled >= 0) & (scaled <= 1)).all()
    assert IntensityWindow.from_dict(window.to_dict()) == window


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_scaling_is_linear_and_clipped(dtype):
    image = np.array([[0, 10, 20], [60, 110, 120]]).astype(dtype)
    scaled = IntensityWindow.from_limits(10, 110).apply(image)
    np.testing.assert_allclose(scaled, [[0, 0, 0.1], [0.5, 1, 1]], rtol=1e-6)


def scaled_in_float64(image, window):
    """The definition: clipped and scaled in float64, NaN as the lower limit."""
    values = np.where(np.isnan(image), window.low, image.astype(np.float64))
    values = np.clip(values, window.low, window.high)
    scale = 1.0 if np.isfinite(window.high - window.low) else 0.5
    low, high = window.low * scale, window.high * scale
    return ((values * scale - low) / (high - low)).astype(np.float32)


VIEWS = {
    "whole": lambda image: image,
    "strided": lambda image: image[::-2, 1::3],
    "transposed": lambda image: image.T,
    "three axes": lambda image: np.broadcast_to(image, (2, *image.shape)).swapaxes(0, 2),
    "empty": lambda image: image[:0],
}
LIMIT = st.floats(allow_nan=False, allow_infinity=False)


@given(
    image=hnp.arrays(REAL, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)),
    limits=st.tuples(LIMIT, LIMIT) | st.tuples(st.integers(-300, 300), st.integers(-300, 70000)),
    view=st.sampled_from(sorted(VIEWS)),
)
@example(np.array([[np.nan, np.inf, -np.inf, -0.0, 0.0]]), (0.0, 1.0), "whole")
@example(np.array([[np.nan, -1.7e308, 1.7e308, 5.0]]), (-1.7e308, 1.7e308), "whole")
@example(np.arange(-128, 128, dtype=np.int8)[None], (-3.7, 99.1), "whole")
@example(np.arange(2**16, dtype=">u2")[None], (12.3, 40000.7), "transposed")
@example(np.linspace(-9, 9, 2**16 + 3, dtype=np.float32)[None], (-1.0, 0.1), "transposed")
def test_scaling_is_equal_bit_by_bit_to_its_definition(image, limits, view):
    window, image = IntensityWindow(min(limits), max(limits)), VIEWS[view](image)
    if window.low == window.high:
        return
    found = window.apply(image)
    expected = scaled_in_float64(image, window)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("order", ["<", ">"])
def test_byte_order_does_not_matter(order):
    image = np.arange(12, dtype=f"{order}i2").reshape(3, 4)
    np.testing.assert_array_equal(
        IntensityWindow(0, 11).apply(image), IntensityWindow(0, 11).apply(image.astype("=i2"))
    )


def test_small_differences_on_a_large_offset_survive():
    image = 2**40 + np.arange(3, dtype=np.int64)[None]
    window = IntensityWindow.from_limits(2.0**40, 2.0**40 + 2)
    np.testing.assert_array_equal(window.apply(image), [[0, 0.5, 1]])


def test_nan_and_infinities():
    scaled = IntensityWindow(-1, 1).apply(np.array([np.nan, np.inf, -np.inf, 0.0]))
    np.testing.assert_array_equal(scaled, [0, 1, 0, 0.5])


def test_the_slice_is_not_changed():
    image = np.array([[np.nan, 5.0, -5.0]])
    IntensityWindow(-1, 1).apply(image)
    np.testing.assert_array_equal(image, [[np.nan, 5.0, -5.0]])


@pytest.mark.parametrize("value", [0, 7, -3.5, np.nan, np.inf])
def test_a_constant_volume_gives_zeros(value):
    volume = Volume(np.full((3, 4, 5), value, np.float32))
    scaled = IntensityWindow.from_percentiles(volume).apply(volume.take(1))
    assert (scaled == 0).all()


@given(
    array=hnp.arrays(
        st.sampled_from(["u1", "i2", "f4", "f8"]), SHAPES,
        elements={"min_value": 0, "max_value": 100},
    ),
    lower=st.floats(0, 50), upper=st.floats(51, 100), axis=st.integers(0, 2),
)  # fmt: skip
def test_percentiles_are_those_of_the_whole_volume(array, lower, upper, axis):
    window = IntensityWindow.from_percentiles(Volume(array, axis), lower, upper)
    low, high = np.percentile(array.astype(np.float64), [lower, upper])
    if low == high:
        low, high = array.min(), array.max()
    np.testing.assert_allclose([window.low, window.high], [low, high], rtol=1e-6, atol=1e-9)


def test_percentiles_leave_out_what_is_not_finite():
    array = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)
    spoilt = np.concatenate([array, np.full((5, 10, 10), np.nan, np.float32)])
    spoilt = np.concatenate([spoilt, np.full((5, 10, 10), np.inf, np.float32)])
    assert IntensityWindow.from_percentiles(Volume(spoilt)) == IntensityWindow.from_percentiles(
        Volume(array)
    )


def test_a_sparse_volume_keeps_its_few_bright_voxels():
    array = np.zeros((10, 30, 30), np.uint16)
    array[5, 3:6, 3:6] = 900
    window = IntensityWindow.from_percentiles(Volume(array))
    assert (window.low, window.high) == (0, 900)


class HugeArray:
    """512 GiB of intensities that are computed when they are read."""

    shape = (4096, 2**13, 2**13)
    dtype = np.dtype(np.uint16)

    def __init__(self):
        self.read = []

    def __getitem__(self, key):
        self.read.append(key[0])
        return np.broadcast_to(np.uint16(key[0]), self.shape[1:])


def test_a_volume_larger_than_memory_is_sampled_the_same_way_each_time():
    data = HugeArray()
    volume = Volume(data, axis=0)
    values = sample_finite(volume)
    first, data.read = data.read, []
    assert values.size <= 1.1 * intensity.MAX_SAMPLES
    assert len(first) == 128
    assert (first[0], first[-1]) == (0, 4095)
    np.testing.assert_array_equal(values, sample_finite(volume))
    assert data.read == first


def test_sampled_percentiles_are_close_to_exact_ones(monkeypatch):
    array = np.random.default_rng(0).gamma(2, 300, (200, 60, 50)).astype(np.uint16)
    exact = IntensityWindow.from_percentiles(Volume(array))
    monkeypatch.setattr(intensity, "MAX_SAMPLES", 50_000)
    sampled = IntensityWindow.from_percentiles(Volume(array))
    assert sampled != exact
    assert sampled.low == pytest.approx(exact.low, rel=0.1)
    assert sampled.high == pytest.approx(exact.high, rel=0.05)


@pytest.mark.parametrize(
    ("text", "low", "high", "source"),
    [
        ("soft_tissue", -160, 240, "soft_tissue"),
        ("Soft-Tissue", -160, 240, "soft_tissue"),
        ("lung", -1350, 150, "lung"),
        ("bone", -500, 1300, "bone"),
        (" brain ", 0, 80, "brain"),
        ("-160,240", -160, 240, "limits"),
        ("1e3, 2.5e3", 1000, 2500, "limits"),
        ("0-100%", 0, 63, "0-100%"),
        ("25 - 75 %", 15.75, 47.25, "25-75%"),
    ],
)
def test_windows_are_read_as_people_write_them(text, low, high, source):
    volume = Volume(np.arange(64).reshape(4, 4, 4))
    assert parse_window(text, volume) == IntensityWindow(low, high, source)


@pytest.mark.parametrize(
    "text",
    ["", "fat", "5", "5,", "10,10", "20,10", "nan,1", "0,inf", "99-1%", "50-50%", "0-101%", "1-2"],
)
def test_what_is_no_window_is_refused(text):
    with pytest.raises(ConfigError, match="intensity window"):
        parse_window(text, Volume(np.zeros((2, 2, 2))))


@given(st.text(max_size=12))
def test_any_text_is_a_window_or_a_clear_error(text):
    try:
        window = parse_window(text, Volume(np.arange(8).reshape(2, 2, 2)))
    except ConfigError:
        return
    assert window.low <= window.high


@pytest.mark.parametrize(
    "record",
    [{}, {"low": 1}, {"low": 1, "high": None, "source": "x"}, {"low": 2, "high": 1, "source": "x"}],
)
def test_a_damaged_record_is_refused(record):
    with pytest.raises(ConfigError):
        IntensityWindow.from_dict(record)


@pytest.mark.parametrize("array", [np.zeros((2, 2, 2), complex), np.full((2, 2, 2), "a")])
def test_what_is_not_a_number_is_refused(array):
    with pytest.raises(VolumeError, match="real numbers"):
        IntensityWindow.from_percentiles(Volume(array))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.full((3, 4, 5), 7, np.uint8), "constant"),
        (np.full((3, 4, 5), np.nan, np.float32), "no finite voxel"),
        (np.where(np.arange(60).reshape(3, 4, 5) % 2, np.nan, 3.0), "constant"),
        (np.full((3, 4, 5), -np.inf), "no finite voxel"),
        (np.zeros((3, 4, 5), bool), "constant"),
    ],
)
def test_a_volume_without_contrast_is_refused(data, words):
    with pytest.raises(VolumeError, match=words):
        check_contrast(Volume(data, name="scan"))


@pytest.mark.parametrize("index", [0, 2])
def test_one_voxel_that_differs_is_contrast(index):
    data = np.zeros((3, 4, 5))
    data[index, 0, 0] = 1
    check_contrast(Volume(data))


def test_slices_that_differ_only_from_each_other_are_contrast():
    check_contrast(Volume(np.repeat(np.arange(3.0), 20).reshape(3, 4, 5)))


def test_contrast_is_found_on_the_first_slice_that_has_it():
    read = []

    class Lazy:
        shape, dtype = (9, 4, 5), np.dtype(float)

        def __getitem__(self, key):
            read.append(key[0])
            return np.arange(20.0).reshape(4, 5)

    check_contrast(Volume(Lazy()))
    assert read == [0]
