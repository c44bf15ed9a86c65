"""Rate limits: an average and a burst."""

from protocols.bucket import TokenBucket


def taken(bucket: TokenBucket, tries: int, now: float) -> int:
    """How many of the tries at one moment succeed."""
    return sum(bucket.take(now=now) for _ in range(tries))


def test_the_burst_is_there_at_once_and_no_more() -> None:
    assert taken(TokenBucket(10, 5), 9, 100.0) == 5


def test_it_refills_at_its_rate() -> None:
    bucket = TokenBucket(10, 5)
    assert taken(bucket, 9, 100.0) == 5
    assert taken(bucket, 9, 100.25) == 2
    assert taken(bucket, 9, 100.5) == 3  # the half left over at the last look counts


def test_a_long_rest_saves_up_no_more_than_the_burst() -> None:
    bucket = TokenBucket(10, 5)
    taken(bucket, 9, 100.0)
    assert taken(bucket, 9, 10_000.0) == 5


def test_a_rate_of_zero_gives_nothing() -> None:
    assert taken(TokenBucket(0, 0), 3, 100.0) == 0
