"""A step's numbers on its asset while it works: there, of the right partition, and not too many."""

import dagster as dg

from gbif_platform.orchestration.observations import EVERY_SECONDS, Observations

KEY = dg.AssetKey(["frogs", "downloaded_images"])


def observed(moments: list[float]) -> list[dg.AssetObservation]:
    """What Dagster keeps of a step that tells `done` at these moments, in seconds since its start."""
    now = 0.0

    @dg.asset(key=KEY, partitions_def=dg.StaticPartitionsDefinition(["first"]))
    def images(context: dg.AssetExecutionContext) -> None:
        nonlocal now
        observe = Observations(context, KEY, clock=lambda: now)
        for now in moments:
            observe({"done": now, "images_per_second": 381.5})

    with dg.instance_for_test() as instance:
        assert dg.materialize([images], partition_key="first", instance=instance).success
        records = instance.fetch_observations(KEY, limit=1000).records
        found = [record.asset_observation for record in reversed(records)]
        return [observation for observation in found if observation]


def test_they_come_every_half_minute_with_numbers_that_plot() -> None:
    found = observed([second / 2 for second in range(200)])
    assert [one.metadata["done"].value for one in found] == [EVERY_SECONDS, 2 * EVERY_SECONDS, 3 * EVERY_SECONDS]
    assert {one.partition for one in found} == {"first"}
    assert found[0].metadata["images_per_second"] == dg.FloatMetadataValue(381.5)


def test_a_run_of_days_leaves_some_two_hundred() -> None:
    assert 100 < len(observed([30.0 * tick for tick in range(3 * 24 * 120)])) < 230
