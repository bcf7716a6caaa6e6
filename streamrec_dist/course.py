"""The course of a metric over a run of any length, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

#: Buckets at most; when there are more, two neighbours become one.
BUCKETS = 1024
#: Values beyond are taken for it, so that no sum of them is infinite.
LARGEST = 1e100


@dataclass
class Bucket:
    """Values of neighbouring steps."""

    first: int
    last: int
    count: int
    total: float
    low: float
    high: float

    def take(self, other: Bucket) -> None:
        """Add the values of a later bucket."""
        self.last = other.last
        self.count += other.count
        self.total += other.total
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)


@dataclass
class Course:
    """Means of a metric over ranges of `width` values each, with their lowest and highest, oldest first."""

    width: int = 1
    buckets: list[Bucket] = field(default_factory=list)

    def add(self, step: int, value: float) -> None:
        """Take the value of a step. Steps made again take the place of what was made of them and after them."""
        value = min(max(value, -LARGEST), LARGEST)
        if self.buckets and step <= self.buckets[-1].last:
            self.cut(step)
        new = Bucket(step, step, 1, value, value, value)
        if self.buckets and self.buckets[-1].count < self.width:
            self.buckets[-1].take(new)
            return
        self.buckets.append(new)
        if len(self.buckets) > BUCKETS:
            self._halve()

    def cut(self, step: int) -> None:
        """Forget the values from `step` on; a bucket that began before keeps the mean that it had."""
        while self.buckets and self.buckets[-1].first >= step:
            self.buckets.pop()
        if self.buckets and self.buckets[-1].last >= step:
            kept = self.buckets[-1]
            count = max(1, kept.count * (step - kept.first) // (kept.last - kept.first + 1))
            kept.total, kept.count, kept.last = kept.total / kept.count * count, count, step - 1

    def _halve(self) -> None:
        self.width *= 2
        pairs = iter(self.buckets)
        halved = []
        for bucket in pairs:
            if (following := next(pairs, None)) is not None:
                bucket.take(following)
            halved.append(bucket)
        self.buckets = halved

    def means(self) -> np.ndarray:
        """float64 [n]."""
        return np.array([bucket.total / bucket.count for bucket in self.buckets])

    def steps(self) -> np.ndarray:
        """The middle of each range of steps, float64 [n]."""
        return np.array([(bucket.first + bucket.last) / 2 for bucket in self.buckets])

    def ranges(self) -> np.ndarray:
        """Lowest and highest values, float64 [n, 2]."""
        return np.array([(bucket.low, bucket.high) for bucket in self.buckets]).reshape(-1, 2)

    def ends(self, share: float = 0.2) -> tuple[float, float]:
        """Means over the first and the last `share` of the steps, in whole buckets. Raises ValueError for none."""
        if not self.buckets:
            raise ValueError("the course is empty")
        first, last = self.buckets[0].first, self.buckets[-1].last
        width = share * (last - first + 1)
        early = [bucket for bucket in self.buckets if bucket.first < first + width]
        late = [bucket for bucket in self.buckets if bucket.last > last - width]
        return _mean(early), _mean(late)

    def total_before(self, steps: np.ndarray) -> np.ndarray:
        """The sum of the values of all steps before each of `steps` [k]; those of a bucket are alike: float64 [k]."""
        edges = [edge for bucket in self.buckets for edge in (bucket.first, bucket.last + 1)]
        sums = np.cumsum([part for bucket in self.buckets for part in (0.0, bucket.total)])
        return np.interp(steps, edges, sums, left=0.0) if edges else np.zeros(len(steps))

    def thinned(self, points: int) -> Course:
        """The same course in at most so many buckets."""
        every = -(-len(self.buckets) // points)
        groups = (self.buckets[at : at + every] for at in range(0, len(self.buckets), max(every, 1)))
        return Course(self.width * max(every, 1), [_joined(group) for group in groups])

    def state(self) -> bytes:
        """What `restored` makes it of again: float64 [1 + n, 6], little-endian; the width stands in the first row."""
        rows = [(b.first, b.last, b.count, b.total, b.low, b.high) for b in self.buckets]
        return np.array([(self.width, 0, 0, 0, 0, 0), *rows], dtype="<f8").tobytes()

    @staticmethod
    def restored(state: object) -> Course:
        """Raises ValueError for what `state` has not made."""
        if not isinstance(state, bytes):
            raise ValueError("this is no course of a metric")
        rows = np.frombuffer(state, dtype="<f8").reshape(-1, 6)
        if not 1 <= len(rows) <= BUCKETS + 1 or not (np.abs(rows) <= LARGEST**2).all():
            raise ValueError("this is no course of a metric")
        width, (first, last, count, *_) = rows[0, 0], rows[1:].T
        if width < 1 or (count < 1).any() or (first > last).any() or (first[1:] <= last[:-1]).any():
            raise ValueError("this is no course of a metric")
        buckets = [Bucket(int(a), int(b), int(c), *rest) for a, b, c, *rest in rows[1:].tolist()]
        return Course(int(width), buckets)


def _mean(buckets: list[Bucket]) -> float:
    return sum(bucket.total for bucket in buckets) / sum(bucket.count for bucket in buckets)


def _joined(buckets: list[Bucket]) -> Bucket:
    joined = replace(buckets[0])
    for bucket in buckets[1:]:
        joined.take(bucket)
    return joined
