import pytest

from udacisense.errors import InputError
from udacisense.measure.timing import collect_samples


class Work:
    """A clock in nanoseconds that only the work moves on: durations are exact."""

    def __init__(self, durations_ms, then_ms=None):
        self.durations = list(durations_ms)
        self.then_ms = self.durations[-1] if then_ms is None else then_ms
        self.now = 1_000
        self.calls = 0

    def clock(self):
        return self.now

    def __call__(self):
        duration = self.durations[self.calls] if self.calls < len(self.durations) else self.then_ms
        self.now += round(duration * 1e6)
        self.calls += 1


def collect(work, **options):
    settings = {"warmup": 0, "min_samples": 1, "min_s": 0.0, "max_s": 60.0, "min_sample_ms": 1.0, **options}
    return collect_samples(work, clock=work.clock, **settings)


def test_the_first_call_and_the_warm_up_are_kept_apart_from_the_samples():
    # 100: first call; 50, 40: warm-up; 10: calibration; then the samples.
    samples = collect(Work([100, 50, 40, 10, 3, 4, 5]), warmup=2, min_samples=3)
    assert samples.first_ms == 100
    assert samples.samples_ms == (3, 4, 5)
    assert samples.calls_per_sample == 1


def test_outliers_are_kept():
    samples = collect(Work([2, 2, 2, 900, 2]), min_samples=3)
    assert samples.samples_ms == (2, 900, 2)


def test_sampling_goes_on_until_min_seconds():
    samples = collect(Work([2]), min_samples=3, min_s=0.1)
    assert len(samples.samples_ms) == 50


def test_sampling_goes_on_until_min_samples():
    samples = collect(Work([2]), min_samples=70, min_s=0.1)
    assert len(samples.samples_ms) == 70


def test_sampling_ends_at_max_seconds_though_samples_are_missing():
    samples = collect(Work([100]), min_samples=1000, min_s=0.5, max_s=1.0)
    assert len(samples.samples_ms) == 10


def test_there_is_one_sample_though_it_takes_longer_than_allowed():
    samples = collect(Work([5000]), min_samples=30, min_s=0.0, max_s=1.0)
    assert samples.samples_ms == (5000,)


def test_warm_up_does_not_outlast_max_seconds():
    work = Work([500])
    collect(work, warmup=100, max_s=1.0, min_samples=1)
    assert work.calls == 1 + 2 + 1 + 1  # first, warm-up, calibration, sample


def test_short_calls_are_batched_into_samples_of_the_shortest_length():
    work = Work([0.3])
    samples = collect(work, min_samples=5, min_sample_ms=1.0)
    assert samples.calls_per_sample == 4
    assert samples.samples_ms == pytest.approx([0.3] * 5, abs=1e-12)
    assert work.calls == 1 + (1 + 2 + 4) + 5 * 4


def test_a_batch_is_divided_by_its_length():
    # first, calibration 1 + 2, then two samples of two calls each.
    samples = collect(Work([0.5, 0.5, 0.5, 0.5, 0.6, 0.8, 1.0, 3.0]), min_samples=2)
    assert samples.calls_per_sample == 2
    assert samples.samples_ms == pytest.approx([0.7, 2.0], abs=1e-12)


def test_the_real_clock_measures_a_call():
    samples = collect_samples(lambda: None, warmup=1, min_samples=3, min_s=0.0, max_s=1.0)
    assert samples.calls_per_sample > 100
    assert all(sample > 0 for sample in samples.samples_ms)


def test_an_error_of_the_work_comes_through():
    def broken():
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        collect_samples(broken, warmup=0, min_samples=1, min_s=0, max_s=1)


@pytest.mark.parametrize(
    "options",
    [{"warmup": -1}, {"min_samples": 0}, {"min_s": -1.0}, {"min_s": 2.0, "max_s": 1.0}, {"min_sample_ms": -1.0}],
)
def test_impossible_settings_are_refused(options):
    with pytest.raises(InputError, match="is impossible"):
        collect(Work([1]), **options)
