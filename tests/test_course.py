"""The course of a metric in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrec_dist.course import BUCKETS, Course


def course_of(values: list[float], first: int = 1) -> Course:
    course = Course()
    for step, value in enumerate(values, start=first):
        course.add(step, value)
    return course


def test_a_short_course_is_kept_as_it_is() -> None:
    course = course_of([3.0, 1.0, 2.0])
    assert course.means().tolist() == [3, 1, 2] and course.steps().tolist() == [1, 2, 3]
    assert course.ranges().tolist() == [[3, 3], [1, 1], [2, 2]]


def test_a_long_course_keeps_its_mean_and_its_extremes() -> None:
    values = np.random.default_rng(0).normal(size=50_000)
    course = course_of(values.tolist())
    assert len(course.buckets) <= BUCKETS
    counts = np.array([bucket.count for bucket in course.buckets])
    assert counts.sum() == 50_000 and set(counts[:-1]) == {course.width}
    assert np.average(course.means(), weights=counts) == pytest.approx(values.mean())
    low, high = course.ranges().T
    assert (low.min(), high.max()) == (values.min(), values.max())
    first = course.buckets[0]
    np.testing.assert_allclose(course.means()[0], values[: first.count].mean())


# On a busy machine a case takes as long as it takes.
@settings(deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=8))
def test_steps_made_again_take_the_place_of_those_before(ends: list[int]) -> None:
    """A run that goes back now and then has the course of one that never did, as long as no buckets were joined."""
    course, made = Course(), {}
    step = 0
    for number, end in enumerate(ends):
        step = min(step, end) if number % 2 else step
        for later in range(step + 1, step + end + 1):
            made = {one: value for one, value in made.items() if one < later} | {later: float(later * number)}
            course.add(later, float(later * number))
        step = max(step - end // 2, 0)
    if course.width == 1:
        assert dict(zip(course.steps().tolist(), course.means().tolist(), strict=True)) == made


def test_a_bucket_that_is_cut_in_two_keeps_its_mean() -> None:
    course = course_of([1.0] * (4 * BUCKETS))
    wide = course.width
    middle = course.buckets[-1].first + wide // 2
    course.add(middle, 5.0)
    assert course.buckets[-1].last == middle
    assert sum(bucket.count for bucket in course.buckets) == middle


def test_no_value_is_so_large_that_its_sums_are_none() -> None:
    course = course_of([1.7e308] * 3000 + [-1.7e308] * 3000)
    assert np.isfinite(course.means()).all() and course.ends() == pytest.approx((1e100, -1e100))
    assert Course.restored(course.state()) == course


def test_the_ends_are_means_of_a_fifth_of_the_steps() -> None:
    course = course_of([float(value) for value in range(1, 101)])
    assert course.ends() == (10.5, 90.5)
    assert course_of([3.0]).ends() == (3.0, 3.0) and course_of([1.0, 5.0]).ends() == (1.0, 5.0)
    with pytest.raises(ValueError, match="empty"):
        Course().ends()


def test_totals_are_those_of_the_steps_there_were() -> None:
    course = Course()
    for step in (2, 3, 7):
        course.add(step, float(step))
    assert course.total_before(np.arange(10)).tolist() == [0, 0, 0, 2, 5, 5, 5, 5, 12, 12]
    values = np.random.default_rng(0).random(5000)
    long = course_of(values.tolist())
    edges = np.array([1] + [bucket.last + 1 for bucket in long.buckets])
    sums = np.concatenate([[0], np.cumsum(values)])
    np.testing.assert_allclose(long.total_before(edges), sums[edges - 1])
    assert Course().total_before(np.arange(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("points", [1, 7, 200, 5000])
def test_a_thinned_course_has_the_same_total_and_extremes(points: int) -> None:
    course = course_of(np.random.default_rng(0).random(3000).tolist())
    thin = course.thinned(points)
    assert len(thin.buckets) <= points
    assert thin.total_before(np.array([10_000])) == pytest.approx(course.total_before(np.array([10_000])))
    assert (thin.ranges().min(), thin.ranges().max()) == (course.ranges().min(), course.ranges().max())
    assert len(course.buckets) == 750, "the course itself stays"


def test_a_state_gives_the_course_again_and_nonsense_an_error() -> None:
    course = course_of([float(value) for value in range(3000)])
    assert Course.restored(course.state()) == course
    head = (1.0, 0, 0, 0, 0, 0)
    wrong = [
        [head, (1, 1, 1, 1e300, 0, 0)],
        [(0.0,) * 6],
        [head, (2, 1, 1, 0, 0, 0)],
        [head, (1, 1, 0, 0, 0, 0)],
        [],
        [head, (1, 2, 1, np.nan, 0, 0)],
    ]
    for rows in wrong:
        with pytest.raises(ValueError, match="no course"):
            Course.restored(np.array(rows, dtype="<f8").reshape(-1, 6).tobytes())
    with pytest.raises(ValueError, match=r"reshape|buffer size"):
        Course.restored(b"12345678")
    with pytest.raises(ValueError, match="no course"):
        Course.restored(None)
