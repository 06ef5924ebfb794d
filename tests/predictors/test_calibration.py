"""Devices fitted to measured networks: what they learn, how sure they are, what is refused, the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from archrank import predictors
from archrank.grammar.workload import OpCost, Workload, WorkloadError
from archrank.predictors import DeviceError
from archrank.predictors.choosing import cross_validated, k_center

A100 = predictors.load("a100")


def network(width: int, layers: int, ratio: int) -> Workload:
    """A small transformer's ops over 2,048 tokens."""
    m = 2048
    ops = [OpCost.of("embedding", {"m": m, "n": width})]
    for _ in range(layers):
        ops += [
            OpCost.of("layer_norm", {"m": m, "n": width}, count=2),
            OpCost.of("linear", {"m": m, "n": 3 * width, "k": width}),
            OpCost.of("attention", {"b": 2, "heads": width // 64, "q": 1024, "kv": 1024, "d": 64}),
            OpCost.of("linear", {"m": m, "n": width, "k": width}),
            OpCost.of("linear", {"m": m, "n": ratio * width, "k": width}),
            OpCost.of("gelu", {"m": m, "n": ratio * width}),
            OpCost.of("linear", {"m": m, "n": width, "k": ratio * width}),
        ]
    return Workload(tuple(ops), weight_elements=layers * width * width * (4 + 2 * ratio))


RNG = np.random.default_rng(0)
WORKS = [
    network(int(RNG.choice([256, 512, 768])), int(RNG.integers(4, 13)), int(RNG.integers(2, 5))) for _ in range(160)
]
TOLD = A100.predict(WORKS, "bf16").ms
LAUNCHES = np.array([sum(op.count for op in work.ops) for work in WORKS])
TRUE = (1.4 * TOLD + 0.02 * LAUNCHES) * np.exp(0.002 * RNG.standard_normal(len(WORKS)))


def error(n: int) -> float:
    device = A100.calibrated(WORKS[:n], TRUE[:n], "bf16")
    return float(np.mean(np.abs(device.predict(WORKS[100:], "bf16").ms / TRUE[100:] - 1)))


def test_more_measured_networks_mean_less_error_and_narrower_intervals() -> None:
    bare = float(np.mean(np.abs(TOLD[100:] / TRUE[100:] - 1)))
    assert error(1) < bare / 2
    assert error(20) < 0.01
    width = {}
    for n in (1, 50):
        told = A100.calibrated(WORKS[:n], TRUE[:n], "bf16").predict(WORKS[100:], "bf16")
        width[n] = float(np.median((told.high - told.low) / told.ms))
        inside = np.mean((told.low <= TRUE[100:]) & (TRUE[100:] <= told.high))
        assert inside > 0.8
    assert width[1] > 1.5 * width[50]


def test_a_thin_calibration_and_an_unmeasured_op_are_said() -> None:
    thin = A100.calibrated(WORKS[:2], TRUE[:2], "bf16").predict(WORKS[:1], "bf16")
    assert any("calibrated on 2 network(s) only: the interval is widened" in note for note in thin.notes)
    assert any("no measured row of attention in bf16" in note for note in thin.notes)
    other = A100.calibrated(WORKS[:12], TRUE[:12], "bf16").predict(WORKS[:1], "fp16")
    assert any("calibrated in bf16, asked for fp16: the calibration is left out" in note for note in other.notes)
    assert other.ms[0] == A100.predict(WORKS[:1], "fp16").ms[0]


def test_a_network_larger_than_the_memory_is_not_priced() -> None:
    large = Workload(WORKS[0].ops, weight_elements=2 * 10**11)
    told = A100.predict([WORKS[0], large], "bf16")
    assert told.fits.tolist() == [True, False]
    assert np.isinf(told.ms[1])
    assert np.isinf(told.low[1])


def test_a_calibrated_device_is_a_file(tmp_path: Path) -> None:
    device = A100.calibrated(WORKS[:15], TRUE[:15], "bf16")
    path = predictors.save(device, tmp_path / "mine.toml")
    again = predictors.load(path)
    assert np.allclose(again.predict(WORKS[50:60], "bf16").ms, device.predict(WORKS[50:60], "bf16").ms, rtol=1e-5)
    assert predictors.load(str(path)).profile.sources == A100.profile.sources
    with pytest.raises(DeviceError, match=r"mine\.txt: a device is a \.toml file"):
        predictors.save(device, tmp_path / "mine.txt")
    with pytest.raises(DeviceError, match=r"cannot be written: No such file"):
        predictors.save(device, tmp_path / "none" / "mine.toml")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('dtype = "bf16"\n', "", r"\[calibration\] dtype is missing: it holds dtype, parts"),
        ('dtype = "bf16"', 'dtype = "bf16"\nfoo = 1', r"\[calibration\] foo is unknown"),
        ("ratio = [", "ratio = [-1.0, ", r"\[calibration\] ratio must be finite numbers in 1 dimension\(s\), times"),
        ("ratio = [", "ratio = [1.0, ", r"\[calibration\] 4 ratios do not go with the sizes of part_ms"),
        ('prices = "learned"', 'prices = "guessed"', r"prices = 'guessed', but it must be learned or roofline"),
    ],
)
def test_a_wrong_calibration_in_a_file(old: str, new: str, said: str, tmp_path: Path) -> None:
    path = predictors.save(A100.calibrated(WORKS[:3], TRUE[:3], "bf16"), tmp_path / "mine.toml")
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(DeviceError, match=said):
        predictors.load(path)


def test_what_cannot_be_calibrated_is_told() -> None:
    with pytest.raises(DeviceError, match=r"no measured network was given: calibrated\(\[workload, …\]"):
        A100.calibrated([], [], "bf16")
    with pytest.raises(DeviceError, match=r"2 workloads but measured_ms of shape \(1,\): one time a workload"):
        A100.calibrated(WORKS[:2], [1.0], "bf16")
    with pytest.raises(DeviceError, match=r"measured_ms holds -1, but each must be above 0 and finite"):
        A100.calibrated(WORKS[:2], [1.0, -1.0], "bf16")
    with pytest.raises(DeviceError, match=r"measured_ms is not an array of numbers"):
        A100.calibrated(WORKS[:1], ["fast"], "bf16")  # type: ignore[list-item]
    with pytest.raises(DeviceError, match=r"workload 0 has no ops"):
        A100.calibrated([Workload()], [1.0], "bf16")
    with pytest.raises(DeviceError, match=r"9 of 9 measured times are below the bound.*such as seconds\? Give milli"):
        A100.calibrated(WORKS[:9], TRUE[:9] / 1000, "bf16")
    with pytest.raises(DeviceError, match=r"times the predicted ones \(median\): another unit, such as microseconds"):
        A100.calibrated(WORKS[:9], TRUE[:9] * 1000, "bf16")
    with pytest.raises(DeviceError, match=r"has no fp8 peak"):
        A100.calibrated(WORKS[:1], TRUE[:1], "fp8")


def test_chosen_networks_are_far_apart_and_cross_validation_needs_two() -> None:
    taken = k_center(A100, WORKS, 6, "bf16")
    assert len(set(taken)) == 6
    assert len({dict(WORKS[i].ops[0].dims)["n"] for i in taken}) == 3
    mape, rho = cross_validated(A100, WORKS[:30], TRUE[:30], "bf16")
    assert mape < 2
    assert rho > 0.99
    with pytest.raises(DeviceError, match=r"1 measured network\(s\): cross-validation needs at least 2"):
        cross_validated(A100, WORKS[:1], TRUE[:1], "bf16")
    with pytest.raises(DeviceError, match=r"9 networks were asked for out of 3"):
        k_center(A100, WORKS[:3], 9, "bf16")


def test_an_unknown_op_is_named_and_an_own_one_priced_by_its_totals() -> None:
    with pytest.raises(WorkloadError, match=r"unknown op 'liner': did you mean linear"):
        OpCost.of("liner", {"m": 1, "n": 1, "k": 1})
    own = Workload((OpCost.of("other", {"flops": 10**9, "read": 10**6, "written": 10**6}),))
    told = A100.predict([own], "fp16")
    assert any("no measured row of other in fp16: priced by the roofline" in note for note in told.notes)
    assert told.high[0] >= 2 * told.ms[0]
    named = Workload((OpCost("other", own.ops[0].dims, label="gated"),))
    assert any("no measured row of gated in fp16" in note for note in A100.predict([named], "fp16").notes)
    assert named == own
